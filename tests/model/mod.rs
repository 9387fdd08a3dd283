//! The start protocol proved: every order in which clients, gateways, the store and the backends can act and fail is
//! gone through, and in none of them a start makes two jobs. `docs/proof.md` says what is modelled, and what is not.
//!
//! Part of the crate's own tests, since commands cannot be copied outside of them. To see the traces:
//! `cargo test --lib model -- --nocapture`.

mod backends;
mod happens;
mod store;
mod world;

use std::io::{self, Write as _};

use stateright::{Checker, HasDiscoveries, Model, Path, Property};

use self::store::{Place, Told};
use self::world::{Action, Request, World};
use crate::exports::step::Policy;
use crate::names::BackendName;

/// What is gone through.
#[derive(Debug, Clone, Copy)]
struct Setting {
    /// Two gateways on one store such as Redis; else one gateway with a store of its own.
    shared: bool,
    policy: Policy,
    /// How many requests the client sends, at the most.
    requests: u8,
    /// How many crashes there are, at the most.
    crashes: u8,
    /// How many operations of the store fail, at the most.
    faults: u8,
    /// How often open starts are taken over, at the most.
    takeovers: u8,
    /// Whether backends answer in every way, or in one way of each kind that the protocol tells apart.
    fates: Fates,
    mutant: Option<Mutant>,
}

/// How backends answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fates {
    All,
    Kinds,
}

/// A mistake, made on purpose where the model performs commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    UnknownFallsBack,
    OwnerIsNotStored,
    IntentIsNotMoved,
    KeyIsFreedAfterUnknown,
    FailedForgettingIsIgnored,
}

impl Setting {
    fn gateways(&self) -> u8 {
        if self.shared { 2 } else { 1 }
    }

    /// All requests with a client's key have the same one, those without each its own.
    fn key_of(&self, request: Place) -> Place {
        if self.policy.keyed { 0 } else { request }
    }
}

const ONE_JOB: &str = "at most one job per start or key";
const OWNED: &str = "no acknowledged job without its owner";
const HONEST: &str = "an unknown outcome is never called a failure";
const INVARIANTS: [&str; 3] = [ONE_JOB, OWNED, HONEST];

impl Model for Setting {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(self, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        Some(world.after(self, action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(ONE_JOB, |setting: &Setting, world: &World| {
                (0..world.requests.len() as Place).all(|place| {
                    let key = setting.key_of(place);
                    world.jobs.iter().filter(|job| setting.key_of(job.of) == key).count() <= 1
                })
            }),
            Property::always(OWNED, |_, world| {
                told(world).all(|(_, told)| match told {
                    Told::Started(job) | Told::StartedFailed(job) => {
                        let backend = world.jobs[usize::from(job)].backend;
                        match world.store.owners[usize::from(job)] {
                            Some(owner) => owner == backend,
                            // It is looked for there.
                            None => backend == BackendName::Legacy,
                        }
                    }
                    _ => true,
                })
            }),
            Property::always(HONEST, |_, world| {
                told(world).all(|(place, told)| match told {
                    Told::NothingStarted | Told::Rejected => world.jobs.iter().all(|job| job.of != place),
                    _ => true,
                })
            }),
        ];
        properties.extend(self.possible());
        properties
    }
}

impl Setting {
    /// What must be possible, or the rest would say nothing.
    fn possible(&self) -> Vec<Property<Self>> {
        let Policy { fallback, idempotent, keyed } = self.policy;
        let two = self.requests > 1;
        let mut possible = vec![
            Property::sometimes("a job on workers is answered", |_, world| started_on(world, BackendName::Workers)),
            Property::sometimes("a job on legacy is answered", |_, world| started_on(world, BackendName::Legacy)),
            Property::sometimes("a start is refused", |_, world| is_told(world, Told::NothingStarted)),
            Property::sometimes("an outcome is unknown", |_, world| is_told(world, Told::OutcomeUnknown)),
            Property::sometimes("a gateway crashes in a start", |_, world: &World| {
                world.requests.contains(&Request::Cut)
            }),
        ];
        if fallback {
            possible.push(Property::sometimes("a start of workers' is answered by legacy", |_, world| {
                started_on(world, BackendName::Legacy) && world.has_fallen_back()
            }));
        }
        if keyed && two {
            possible.push(Property::sometimes("an answer is given again", |_, world| {
                let mut jobs = told(world).filter_map(|(_, told)| match told {
                    Told::Started(job) => Some(job),
                    _ => None,
                });
                jobs.next().is_some_and(|first| jobs.any(|job| job == first))
            }));
            possible.push(Property::sometimes("a key stays unknown", |_, world| is_told(world, Told::StillUnknown)));
            possible.push(Property::sometimes("a key is freed and used again", |_, world| {
                is_told(world, Told::NothingStarted) && started_on(world, BackendName::Legacy)
            }));
        }
        if idempotent && self.takeovers > 0 {
            possible.push(Property::sometimes("a start that was left open is found again", |_, world: &World| {
                world.has_found_again()
            }));
        }
        possible
    }
}

fn is_told(world: &World, what: Told) -> bool {
    told(world).any(|(_, told)| told == what)
}

fn told(world: &World) -> impl Iterator<Item = (Place, Told)> {
    world.requests.iter().enumerate().filter_map(|(place, request)| match request {
        Request::Ended(told) => Some((place as Place, *told)),
        Request::NotYet | Request::Running(..) | Request::Cut => None,
    })
}

fn started_on(world: &World, backend: BackendName) -> bool {
    told(world).any(|(_, told)| matches!(told, Told::Started(job) if world.jobs[usize::from(job)].backend == backend))
}

/// Every kind of store, key, Worker and file; with one request and all that can happen to it, and with a second one by
/// which the client tries again: with its key at any time, without one when the first has ended.
fn settings() -> Vec<Setting> {
    let both = [false, true];
    let alone = |shared, policy| Setting {
        shared,
        policy,
        requests: 1,
        crashes: 2,
        faults: 2,
        takeovers: 2,
        fates: Fates::All,
        mutant: None,
    };
    let mut settings = Vec::new();
    for (shared, keyed) in both.into_iter().flat_map(|shared| both.map(|keyed| (shared, keyed))) {
        for (idempotent, fallback) in both.into_iter().flat_map(|one| both.map(|two| (one, two))) {
            let alone = alone(shared, Policy { fallback, idempotent, keyed });
            // Without a key two starts have nothing to do with each other: what fails in one is seen with one.
            let failing = u8::from(keyed);
            let again =
                Setting { requests: 2, crashes: 1, faults: failing, takeovers: failing, fates: Fates::Kinds, ..alone };
            settings.extend([alone, again]);
        }
    }
    settings
}

#[test]
fn in_no_order_of_failures_is_a_start_made_twice_an_owner_lost_or_the_unknown_called_a_failure() {
    let (mut states, mut depth) = (0, 0);
    println!("\n  gateways key workers     fallback  requests crashes faults    states depth");
    for setting in settings() {
        let checker = setting.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let Policy { fallback, idempotent, keyed } = setting.policy;
        println!(
            "  {:<8} {:<3} {:<11} {:<9} {:>8} {:>7} {:>6} {:>9} {:>5}",
            setting.gateways(),
            if keyed { "yes" } else { "no" },
            if idempotent { "honour keys" } else { "do not" },
            fallback,
            setting.requests,
            setting.crashes,
            setting.faults,
            checker.unique_state_count(),
            checker.max_depth(),
        );
        for broken in INVARIANTS {
            if let Some(path) = checker.discovery(broken) {
                panic!("{setting:?}\nnot so: {broken}\n{}", as_text(&setting, broken, path));
            }
        }
        checker.assert_properties();
        states += checker.unique_state_count();
        depth = depth.max(checker.max_depth());
    }
    say(&format!(
        "model of the start protocol: {} settings, {states} unique states, depth {depth}, {} invariants hold",
        settings().len(),
        INVARIANTS.len()
    ));
}

#[test]
fn a_rule_that_is_turned_off_is_found_out() {
    let once = Setting {
        shared: true,
        policy: Policy { fallback: true, idempotent: false, keyed: true },
        requests: 1,
        crashes: 1,
        faults: 0,
        takeovers: 1,
        fates: Fates::Kinds,
        mutant: None,
    };
    let twice = Setting { requests: 2, ..once };
    let idempotent = Setting { policy: Policy { idempotent: true, ..once.policy }, ..once };
    let cases = [
        (Mutant::UnknownFallsBack, once, ONE_JOB),
        (Mutant::OwnerIsNotStored, once, OWNED),
        (Mutant::IntentIsNotMoved, idempotent, ONE_JOB),
        (Mutant::KeyIsFreedAfterUnknown, twice, ONE_JOB),
        (Mutant::FailedForgettingIsIgnored, Setting { faults: 1, ..idempotent }, HONEST),
    ];
    for (mutant, setting, broken) in cases {
        let setting = Setting { mutant: Some(mutant), ..setting };
        // One thread finds the same way each time.
        let checker = setting.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let Some(path) = checker.discovery(broken) else { panic!("{mutant:?} breaks nothing") };
        let text = as_text(&setting, broken, path);
        println!("\n{mutant:?}, found among {} states: not so: {broken}\n{text}", checker.unique_state_count());
        let steps = text.lines().count();
        say(&format!("model of the start protocol: {mutant:?} is found out in {steps} steps: not so: {broken}"));
    }
}

/// Says something in every run, also where the output of tests is held back.
fn say(line: &str) {
    writeln!(io::stdout(), "{line}").unwrap();
}

/// Tells a way through the model to where something is broken, a line for each step.
fn as_text(setting: &Setting, broken: &'static str, path: Path<World, Action>) -> String {
    let holds = setting.property(broken).condition;
    let mut steps = path.into_vec();
    if let Some(end) = steps.iter().position(|(world, _)| !holds(setting, world)) {
        steps.truncate(end);
    }
    let lines = steps.iter().enumerate().filter_map(|(at, (world, action))| {
        let (number, action) = (at + 1, action.as_ref()?);
        let what = match action {
            Action::Sends(request, gateway) => format!("request {request}: the client sends it to gateway {gateway}"),
            Action::Does(request, comes) => {
                let Request::Running(gateway, command, _) = &world.requests[usize::from(*request)] else {
                    return None;
                };
                let command = format!("{command:?}");
                let name = command.split(['(', ' ']).next().unwrap_or_default();
                format!("request {request}: gateway {gateway}: {name}: {comes:?}")
            }
            Action::Crashes(gateway) => format!("gateway {gateway} crashes"),
            Action::DeadlinePasses(key) => format!("the deadline of the intent under key {key} passes"),
            Action::Arrives(at) => format!("late, the store carries out {:?}", world.store.late[*at]),
            Action::GoesOn(at, comes) => format!("in the background, {:?}: {comes:?}", world.tasks[*at]),
            Action::TakesOver(gateway, key) => format!("gateway {gateway} takes over what is open under key {key}"),
        };
        Some(format!("  {number:>2}. {what}\n"))
    });
    lines.collect()
}
