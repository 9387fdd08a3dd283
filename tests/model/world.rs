//! The world of a start: clients, gateways that crash, a store that fails, backends that answer in every way.
//!
//! The gateways do what [`super::super::Command`]s say, as `src/gateway/start` does; all that can come of a command is an
//! [`Action`] each.

use super::super::Command;
use super::Setting;
use super::backends::{Fate, of_legacy, of_workers};
use super::store::{Intent, JobPlace, Luck, Place, State, Store, Told, Write};
use crate::names::BackendName;

/// All there is at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) requests: Vec<Request>,
    pub(super) store: Store,
    pub(super) jobs: Vec<Job>,
    pub(super) tasks: Vec<Task>,
    /// How many store operations can still fail.
    pub(super) faults: u8,
    /// How many crashes are still to come.
    pub(super) crashes: u8,
    pub(super) takeovers: u8,
    /// Whether a start was moved to legacy.
    pub(super) is_moved: bool,
}

/// A request of the client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Request {
    NotYet,
    /// At this gateway, which has to do this next. What the backend has answered, in the client's words.
    Running(u8, Command, Option<Told>),
    Ended(Told),
    /// The gateway is gone.
    Cut,
}

/// A job that a backend has made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Job {
    pub(super) backend: BackendName,
    /// The request it was made for.
    pub(super) of: Place,
    pub(super) key: Place,
}

/// Work of a gateway that nobody waits for; lost with it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Task {
    pub(super) gateway: u8,
    pub(super) work: Work,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Work {
    /// To be written until it is.
    Owed(Write),
    /// An owner, and then what closes its intent.
    OwedOwner(Write, Write),
    /// Workers are to be asked for this open start once more.
    Ask { key: Place, token: Place },
    /// What came of that.
    Asked { key: Place, token: Place, job: Option<JobPlace>, told: Told },
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// The client sends a request to a gateway.
    Sends(Place, u8),
    /// A gateway does what is next for a request, and this comes of it.
    Does(Place, Comes),
    /// A gateway crashes and starts again.
    Crashes(u8),
    /// The deadline of the intent under a key passes.
    DeadlinePasses(Place),
    /// A late write arrives.
    Arrives(usize),
    /// A task goes on.
    GoesOn(usize, Comes),
    /// A gateway takes over a start that was left open.
    TakesOver(u8, Place),
}

/// What comes of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comes {
    Read,
    ReadFails,
    ForLegacy,
    ForWorkers,
    LookUpFails,
    Writes(Luck),
    Answers(Fate),
    Ends,
}

impl World {
    pub(super) fn new(setting: &Setting) -> World {
        World {
            requests: vec![Request::NotYet; usize::from(setting.requests)],
            store: Store::new(if setting.policy.keyed { 1 } else { setting.requests }),
            jobs: Vec::new(),
            tasks: Vec::new(),
            faults: setting.faults,
            crashes: setting.crashes,
            takeovers: setting.takeovers,
            is_moved: false,
        }
    }

    /// Says whether a start that was recorded for workers has been moved to legacy.
    pub(super) fn has_fallen_back(&self) -> bool {
        self.is_moved
    }

    /// Says whether a job was found by asking workers once more for a start that was left open.
    pub(super) fn has_found_again(&self) -> bool {
        self.tasks.iter().any(|task| matches!(task.work, Work::Asked { job: Some(_), .. }))
    }

    pub(super) fn actions(&self, setting: &Setting, actions: &mut Vec<Action>) {
        let gateways = 0..setting.gateways();
        if let Some(next) = self.requests.iter().position(|request| *request == Request::NotYet) {
            // Without a key two requests have nothing to do with each other but for the order of things.
            let before = next.checked_sub(1).map(|before| &self.requests[before]);
            if setting.policy.keyed || !matches!(before, Some(Request::Running(..))) {
                // Gateways are all alike: the first request can as well meet the first one.
                let reached = if next == 0 { 0..1 } else { gateways.clone() };
                actions.extend(reached.map(|gateway| Action::Sends(next as Place, gateway)));
            }
        }
        for (place, request) in self.requests.iter().enumerate() {
            if let Request::Running(_, command, _) = request {
                self.outcomes(setting, command, |comes| actions.push(Action::Does(place as Place, comes)));
            }
        }
        if self.crashes > 0 {
            actions.extend(gateways.clone().filter(|gateway| self.is_busy(*gateway)).map(Action::Crashes));
        }
        for key in 0..self.store.keys.len() as Place {
            let Some(intent) = self.store.intent(key) else { continue };
            if intent.state == State::Running && !intent.is_late {
                actions.push(Action::DeadlinePasses(key));
            }
            for gateway in gateways.clone().filter(|gateway| self.may_take_over(setting, intent, key, *gateway)) {
                actions.push(Action::TakesOver(gateway, key));
            }
        }
        actions.extend((0..self.store.late.len()).map(Action::Arrives));
        for (place, task) in self.tasks.iter().enumerate() {
            match &task.work {
                Work::Owed(_) | Work::OwedOwner(..) => actions.push(Action::GoesOn(place, Comes::Writes(Luck::Well))),
                Work::Ask { .. } => {
                    actions.extend(of_workers(setting).iter().map(|fate| Action::GoesOn(place, Comes::Answers(*fate))));
                }
                Work::Asked { .. } => self.lucks(setting, false, |luck| {
                    actions.push(Action::GoesOn(place, Comes::Writes(luck)));
                }),
            }
        }
    }

    fn is_busy(&self, gateway: u8) -> bool {
        self.requests.iter().any(|request| matches!(request, Request::Running(at, ..) if *at == gateway))
            || self.tasks.iter().any(|task| task.gateway == gateway)
    }

    fn may_take_over(&self, setting: &Setting, intent: &Intent, key: Place, gateway: u8) -> bool {
        let is_open = match intent.state {
            State::Running if setting.shared => intent.is_late,
            State::Running => intent.is_orphan,
            // The one that asks has it for some time only.
            State::Asked => true,
            State::Unknown | State::Answered(_) => false,
        };
        let is_asked = |task: &Task| {
            task.gateway == gateway
                && matches!(task.work, Work::Ask { key: at, .. } | Work::Asked { key: at, .. } if at == key)
        };
        self.takeovers > 0
            && setting.policy.idempotent
            && is_open
            && intent.resend
            && intent.backend == BackendName::Workers
            && !self.tasks.iter().any(is_asked)
    }

    /// Names all that can come of a command.
    fn outcomes(&self, setting: &Setting, command: &Command, mut comes: impl FnMut(Comes)) {
        match command {
            Command::LookUpKey(_) => {
                comes(Comes::Read);
                if self.faults > 0 {
                    comes(Comes::ReadFails);
                }
            }
            Command::Choose(_) => [Comes::ForLegacy, Comes::ForWorkers, Comes::LookUpFails].into_iter().for_each(comes),
            Command::SendToWorkers(_) => of_workers(setting).iter().for_each(|fate| comes(Comes::Answers(*fate))),
            Command::SendToLegacy(_) => of_legacy(setting).iter().for_each(|fate| comes(Comes::Answers(*fate))),
            Command::RecordForWorkers(_) => self.lucks(setting, true, |luck| comes(Comes::Writes(luck))),
            Command::RecordForLegacy(_) | Command::MoveToLegacy(_) | Command::StoreOwner(_) | Command::Settle(_) => {
                self.lucks(setting, false, |luck| comes(Comes::Writes(luck)))
            }
            Command::Answer | Command::Refuse(_) => comes(Comes::Ends),
        }
    }

    /// Names how a write can go. Only Redis can carry one out late, or twice.
    fn lucks(&self, setting: &Setting, may_repeat: bool, mut with: impl FnMut(Luck)) {
        with(Luck::Well);
        if self.faults == 0 {
            return;
        }
        [Luck::NotWritten, Luck::LostWritten, Luck::LostUnwritten].into_iter().for_each(&mut with);
        if setting.shared {
            with(Luck::LostLate);
            if may_repeat {
                with(Luck::Twice);
            }
        }
    }
}
