//! What happens in the model: commands are done as `src/gateway/start` does them, more or less well.

use std::sync::LazyLock;

use bytes::Bytes;

use super::super::{AfterRestart, Command, Ending, Written, after_restart, begin};
use super::backends::place_of;
use super::store::{Closing, Entry, Intent, JobPlace, Luck, Place, Said, State, Told, Write};
use super::world::{Action, Comes, Request, Task, Work, World};
use super::{Mutant, Setting};
use crate::exports::outcome::{NotSent, Outcome};
use crate::exports::step::StartRefusal;
use crate::jobs::idempotency::{self, Verdict};
use crate::jobs::record::{self, Claim, IntentState, KeptAnswer};
use crate::names::{BackendName, ExportType};

impl World {
    pub(super) fn after(&self, setting: &Setting, action: Action) -> World {
        let mut world = self.clone();
        match action {
            Action::Sends(place, gateway) => {
                world.requests[usize::from(place)] = Request::Running(gateway, begin(setting.policy), None);
            }
            Action::Does(place, comes) => world.does(setting, place, comes),
            Action::Crashes(gateway) => world.crashes(setting, gateway),
            Action::DeadlinePasses(key) => {
                if let Some(intent) = world.store.intent_mut(key) {
                    intent.is_late = true;
                }
            }
            Action::Arrives(at) => {
                let write = world.store.late.remove(at);
                world.store.apply(write);
            }
            Action::GoesOn(at, comes) => world.goes_on(setting, at, comes),
            Action::TakesOver(gateway, key) => {
                world.takeovers -= 1;
                if let Some(intent) = world.store.intent_mut(key) {
                    if setting.shared {
                        (intent.state, intent.is_taken) = (State::Asked, true);
                    }
                    let token = intent.token;
                    world.add(gateway, Work::Ask { key, token });
                }
            }
        }
        world.store.tidy();
        world.tasks.sort_unstable();
        world
    }

    fn add(&mut self, gateway: u8, work: Work) {
        let task = Task { gateway, work };
        // Trying twice at once what can be repeated is nothing new.
        if !self.tasks.contains(&task) {
            self.tasks.push(task);
        }
    }

    fn crashes(&mut self, setting: &Setting, gateway: u8) {
        self.crashes -= 1;
        for request in &mut self.requests {
            if matches!(request, Request::Running(at, ..) if *at == gateway) {
                *request = Request::Cut;
            }
        }
        self.tasks.retain(|task| task.gateway != gateway);
        for entry in &mut self.store.keys {
            if let Entry::Intent(intent) = entry
                && !setting.shared
            {
                intent.is_orphan = true;
            }
        }
    }

    /// Does the next command of a request.
    fn does(&mut self, setting: &Setting, place: Place, comes: Comes) {
        let Request::Running(gateway, command, mut reply) =
            std::mem::replace(&mut self.requests[usize::from(place)], Request::Cut)
        else {
            unreachable!("only what runs does something")
        };
        let key = setting.key_of(place);
        let resend = setting.policy.idempotent;
        let claim = |backend, resend| Write::Claim { key, token: place, backend, resend };
        let next = match (command, comes) {
            (Command::LookUpKey(step), Comes::Read) => match self.store.intent(key) {
                None => Ok(step.free()),
                Some(holder) => Err(told_by(holder)),
            },
            (Command::LookUpKey(step), _) => {
                self.faults -= 1;
                Ok(step.unreadable())
            }
            (Command::Choose(step), Comes::ForLegacy) => Ok(step.legacy()),
            (Command::Choose(step), Comes::ForWorkers) => Ok(step.workers()),
            (Command::Choose(step), _) => Ok(step.not_sent(NotSent::LookupFailed)),
            (Command::RecordForWorkers(step), Comes::Writes(luck)) => {
                self.claims(key, claim(BackendName::Workers, resend), luck).map(|written| step.done(written))
            }
            (Command::RecordForLegacy(step), Comes::Writes(luck)) => {
                self.claims(key, claim(BackendName::Legacy, false), luck).map(|written| step.done(written))
            }
            (Command::MoveToLegacy(step), Comes::Writes(luck)) => match setting.mutant {
                Some(Mutant::IntentIsNotMoved) => Ok(step.done(Written::Yes)),
                _ => {
                    let (_, written) = self.write(Write::Move { key }, luck);
                    self.is_moved |= written == Written::Yes;
                    Ok(step.done(written))
                }
            },
            (Command::SendToWorkers(step), Comes::Answers(fate)) => {
                let (outcome, told) = self.workers(setting, place, fate);
                reply = told;
                Ok(match (&outcome, setting.mutant) {
                    (Outcome::Unknown(_), Some(Mutant::UnknownFallsBack)) => {
                        step.judge(Outcome::NotSent(NotSent::HandedBack)).next()
                    }
                    _ => step.judge(outcome).next(),
                })
            }
            (Command::SendToLegacy(step), Comes::Answers(fate)) => {
                let (outcome, told) = self.legacy(setting, place, fate);
                reply = told;
                Ok(step.done(outcome))
            }
            (Command::StoreOwner(step), Comes::Writes(luck)) => {
                let (job, backend) = (place_of(step.job()), step.backend());
                Ok(step.done(self.stores_owner(setting, gateway, place, job, backend, reply, luck)))
            }
            (Command::Settle(step), Comes::Writes(luck)) => {
                let written = self.settles(setting, gateway, place, step.ending(), reply, luck);
                Ok(step.done(written))
            }
            (Command::Answer, Comes::Ends) => Err(reply.expect("there is an answer to give")),
            (Command::Refuse(StartRefusal::NoBackend | StartRefusal::StoreUnavailable), Comes::Ends) => {
                Err(Told::NothingStarted)
            }
            (Command::Refuse(StartRefusal::OutcomeUnknown(_)), Comes::Ends) => Err(Told::OutcomeUnknown),
            (command, comes) => unreachable!("{comes:?} of {command:?}"),
        };
        self.requests[usize::from(place)] = match next {
            Ok(command) => Request::Running(gateway, command, reply),
            Err(told) => Request::Ended(told),
        };
    }

    /// Claims a key; when another start has it, its client is told what that one's intent says.
    fn claims(&mut self, key: Place, write: Write, luck: Luck) -> Result<Written, Told> {
        match (self.write(write, luck), self.store.intent(key)) {
            ((Said::Held, Written::Yes), Some(holder)) => Err(told_by(holder)),
            ((_, written), _) => Ok(written),
        }
    }

    /// Carries a write out, more or less; returns what the store would say, and what is heard of it.
    fn write(&mut self, write: Write, luck: Luck) -> (Said, Written) {
        if luck != Luck::Well {
            self.faults -= 1;
        }
        let said = match luck {
            Luck::Well | Luck::LostWritten | Luck::Twice => self.store.apply(write),
            Luck::NotWritten | Luck::LostUnwritten | Luck::LostLate => Said::Done,
        };
        if matches!(luck, Luck::LostLate | Luck::Twice) {
            self.store.late.push(write);
        }
        let heard = match (luck, said) {
            (Luck::Well | Luck::Twice, Said::NotThere) => Written::NotThere,
            (Luck::Well | Luck::Twice, Said::Done | Said::Held) => Written::Yes,
            (Luck::NotWritten, _) => Written::No,
            (Luck::LostWritten | Luck::LostUnwritten | Luck::LostLate, _) => Written::Maybe,
        };
        (said, heard)
    }

    #[allow(clippy::too_many_arguments, reason = "all that an owner is stored with")]
    fn stores_owner(
        &mut self,
        setting: &Setting,
        gateway: u8,
        token: Place,
        job: JobPlace,
        backend: BackendName,
        reply: Option<Told>,
        luck: Luck,
    ) -> Written {
        if setting.mutant == Some(Mutant::OwnerIsNotStored) {
            return Written::Yes;
        }
        let key = setting.key_of(token);
        let told = reply.expect("there is an answer to keep");
        let closing = if setting.policy.keyed { Closing::Keep(told) } else { Closing::Forget };
        let close = Write::Close { key, token, closing };
        let owner = Write::Owner { job, backend };
        let (_, written) = self.write(owner, luck);
        match written {
            // Redis has them under two keys: the second write may come later, or never.
            Written::Yes if setting.shared => self.add(gateway, Work::Owed(close)),
            Written::Yes => {
                self.store.apply(close);
            }
            Written::No | Written::NotThere | Written::Maybe => self.add(gateway, Work::OwedOwner(owner, close)),
        }
        written
    }

    fn settles(
        &mut self,
        setting: &Setting,
        gateway: u8,
        token: Place,
        ending: Ending,
        reply: Option<Told>,
        luck: Luck,
    ) -> Written {
        let key = setting.key_of(token);
        let release = Write::Release { key, token };
        let write = match ending {
            Ending::KeepAnswer => Write::KeepAnswer { key, token, told: reply.expect("there is an answer to keep") },
            Ending::Unknown if setting.mutant == Some(Mutant::KeyIsFreedAfterUnknown) => release,
            Ending::Unknown => Write::MarkUnknown { key },
            Ending::Forget => release,
            Ending::ForgetLater => {
                self.add(gateway, Work::Owed(release));
                return Written::Yes;
            }
        };
        let (_, written) = self.write(write, luck);
        if ending == Ending::Forget && setting.mutant == Some(Mutant::FailedForgettingIsIgnored) {
            return Written::Yes;
        }
        if ending == Ending::Forget && matches!(written, Written::No | Written::Maybe) {
            self.add(gateway, Work::Owed(release));
        }
        written
    }

    /// Goes on with a task.
    fn goes_on(&mut self, setting: &Setting, at: usize, comes: Comes) {
        let Task { gateway, work } = self.tasks.remove(at);
        match (work, comes) {
            (Work::Owed(write), _) => {
                self.store.apply(write);
            }
            (Work::OwedOwner(owner, close), _) => {
                self.store.apply(owner);
                if setting.shared {
                    self.add(gateway, Work::Owed(close));
                } else {
                    self.store.apply(close);
                }
            }
            (Work::Ask { key, token }, Comes::Answers(fate)) => {
                let (outcome, told) = self.workers(setting, token, fate);
                let job = match after_restart(outcome) {
                    AfterRestart::AskLater => return,
                    AfterRestart::StoreOwner { job, .. } => Some(place_of(&job)),
                    AfterRestart::Unknown => None,
                };
                self.add(gateway, Work::Asked { key, token, job, told: told.unwrap_or(Told::OutcomeUnknown) });
            }
            (Work::Asked { token, job: Some(job), told, .. }, Comes::Writes(luck)) => {
                self.stores_owner(setting, gateway, token, job, BackendName::Workers, Some(told), luck);
            }
            (Work::Asked { key, job: None, .. }, Comes::Writes(luck)) => {
                self.write(Write::MarkUnknown { key }, luck);
            }
            (work, comes) => unreachable!("{comes:?} of {work:?}"),
        }
    }
}

/// What a start is told whose key this one has, by the rules that the gateway uses.
fn told_by(holder: &Intent) -> Told {
    let answer = KeptAnswer { status: 200, content_type: None, body: Bytes::new() };
    let (state, kept) = match holder.state {
        State::Running if holder.is_late => (IntentState::Unknown, None),
        State::Running => (IntentState::Running, None),
        State::Unknown | State::Asked => (IntentState::Unknown, None),
        State::Answered(told) => (IntentState::Answered, Some(told)),
    };
    static OVERLAY: LazyLock<ExportType> = LazyLock::new(|| ExportType::parse("overlay").unwrap());
    let intent = record::Intent {
        key: Box::default(),
        request_id: Box::default(),
        user: None,
        export: OVERLAY.clone(),
        backend: holder.backend,
        started_ms: 0,
        deadline_ms: 0,
        state,
        claim: Some(Claim { token: Box::default(), body: [0; 32] }),
        resend: None,
        answer: kept.map(|_| answer),
    };
    match (idempotency::judge(&intent, &[0; 32]), kept) {
        (Verdict::Replay(_), Some(told)) => told,
        (Verdict::Running, _) => Told::InProgress,
        (Verdict::Unknown, _) => Told::StillUnknown,
        (verdict, _) => unreachable!("{verdict:?}"),
    }
}
