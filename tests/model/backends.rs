//! The model's backends: all that they can do with a start, and what is seen of it.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use http::StatusCode;

use super::store::{JobPlace, Place, Told};
use super::world::{Job, World};
use super::{Fates, Setting};
use crate::exports::outcome::{Attempt, Broken, LegacyOutcome, NotSent, Outcome, Rules, judge_legacy, judge_workers};
use crate::names::{BackendName, JobId};

/// What a backend does with a start, and what is seen of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    NotSent,
    Declined,
    Rejected,
    Accepted,
    /// Legacy's 2xx that names no job.
    AcceptedUnnamed,
    /// Workers' 500 that names a job.
    Failed,
    /// Legacy's 500; it may have made a job.
    ErrorWithJob,
    ErrorWithoutJob,
    /// The answer is lost; there is a job.
    LostWithJob,
    LostWithoutJob,
}

/// What workers can do. The first of them stand for all: after them the protocol does not tell those apart that follow.
const OF_WORKERS: [Fate; 7] = [
    Fate::NotSent,
    Fate::Rejected,
    Fate::Accepted,
    Fate::LostWithJob,
    Fate::LostWithoutJob,
    // As what was not sent, and as what was accepted.
    Fate::Declined,
    Fate::Failed,
];
const KINDS_OF_WORKERS: usize = 5;

/// What legacy can do, likewise.
const OF_LEGACY: [Fate; 8] = [
    Fate::NotSent,
    Fate::Rejected,
    Fate::Accepted,
    Fate::LostWithJob,
    Fate::LostWithoutJob,
    // As what was rejected, but that there is a job; and as what is lost, but that there is an answer.
    Fate::AcceptedUnnamed,
    Fate::ErrorWithJob,
    Fate::ErrorWithoutJob,
];
const KINDS_OF_LEGACY: usize = 5;

pub(super) fn of_workers(setting: &Setting) -> &'static [Fate] {
    if setting.fates == Fates::All { &OF_WORKERS } else { &OF_WORKERS[..KINDS_OF_WORKERS] }
}

pub(super) fn of_legacy(setting: &Setting) -> &'static [Fate] {
    if setting.fates == Fates::All { &OF_LEGACY } else { &OF_LEGACY[..KINDS_OF_LEGACY] }
}

impl World {
    /// Workers get a start. Those that honour keys make one job for each.
    pub(super) fn workers(&mut self, setting: &Setting, of: Place, fate: Fate) -> (Outcome, Option<Told>) {
        let key = setting.key_of(of);
        let backend = BackendName::Workers;
        let job = |world: &mut World| {
            let is_it = |job: &Job| setting.policy.idempotent && job.backend == backend && job.key == key;
            let known = world.jobs.iter().position(is_it).map(|place| place as JobPlace);
            known.unwrap_or_else(|| world.make(backend, of, key))
        };
        match fate {
            Fate::NotSent => (Outcome::NotSent(NotSent::Unreachable), None),
            Fate::Declined => (DECLINED.clone(), None),
            Fate::Rejected => (Outcome::Rejected { job: None }, Some(Told::Rejected)),
            Fate::Accepted => {
                let job = job(self);
                (Outcome::Accepted(id_of(job)), Some(Told::Started(job)))
            }
            Fate::Failed => {
                let job = job(self);
                (Outcome::Rejected { job: Some(id_of(job)) }, Some(Told::StartedFailed(job)))
            }
            Fate::LostWithJob => {
                job(self);
                (LOST.clone(), None)
            }
            Fate::LostWithoutJob => (LOST.clone(), None),
            fate => unreachable!("workers and {fate:?}"),
        }
    }

    /// Legacy gets a start. Each makes a job.
    pub(super) fn legacy(&mut self, setting: &Setting, of: Place, fate: Fate) -> (LegacyOutcome, Option<Told>) {
        let key = setting.key_of(of);
        let mut job = || self.make(BackendName::Legacy, of, key);
        match fate {
            Fate::NotSent => (LegacyOutcome::NotSent(NotSent::Unreachable), None),
            Fate::Rejected => (LegacyOutcome::Rejected, Some(Told::Rejected)),
            Fate::Accepted => {
                let job = job();
                (LegacyOutcome::Accepted(Some(id_of(job))), Some(Told::Started(job)))
            }
            Fate::AcceptedUnnamed => {
                job();
                (LegacyOutcome::Accepted(None), Some(Told::StartedUnnamed))
            }
            Fate::ErrorWithJob => {
                job();
                (LegacyOutcome::Failed, Some(Told::BackendError))
            }
            Fate::ErrorWithoutJob => (LegacyOutcome::Failed, Some(Told::BackendError)),
            Fate::LostWithJob => {
                job();
                (LEGACY_LOST.clone(), None)
            }
            Fate::LostWithoutJob => (LEGACY_LOST.clone(), None),
            fate => unreachable!("legacy and {fate:?}"),
        }
    }

    fn make(&mut self, backend: BackendName, of: Place, key: Place) -> JobPlace {
        self.jobs.push(Job { backend, of, key });
        self.store.owners.push(None);
        (self.jobs.len() - 1) as JobPlace
    }
}

static DECLINED: LazyLock<Outcome> = LazyLock::new(|| {
    let declined = BTreeSet::from([404]);
    let attempt = Attempt::Answered { status: StatusCode::NOT_FOUND, body: b"{}" };
    judge_workers(attempt, Rules { declined: &declined, credential: false })
});

const CLOSED: Attempt<'static> = Attempt::Broken { how: Broken::Closed, status: None };

static LOST: LazyLock<Outcome> =
    LazyLock::new(|| judge_workers(CLOSED, Rules { declined: &BTreeSet::new(), credential: false }));

static LEGACY_LOST: LazyLock<LegacyOutcome> = LazyLock::new(|| judge_legacy(CLOSED));

fn id_of(job: JobPlace) -> JobId {
    static IDS: LazyLock<Vec<JobId>> =
        LazyLock::new(|| (0..10).map(|place| JobId::parse(&format!("job-{place}")).unwrap()).collect());
    IDS[usize::from(job)].clone()
}

pub(super) fn place_of(id: &JobId) -> JobPlace {
    id.as_str().trim_start_matches("job-").parse().unwrap()
}
