//! The model's job store: what the embedded one and Redis do alike, one key at a time, and how their writes can fail.

use crate::names::BackendName;

/// The place of a request, and so its token; without a client's key also that of its key.
pub(super) type Place = u8;

/// The place of a job among those that were made.
pub(super) type JobPlace = u8;

/// What a client can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Told {
    /// 2xx that names this job.
    Started(JobPlace),
    /// 2xx that names none.
    StartedUnnamed,
    /// The backend's 500 that names this job, which failed at once.
    StartedFailed(JobPlace),
    /// The backend's 4xx.
    Rejected,
    /// Legacy's own 5xx.
    BackendError,
    /// 503 `no_backend` or `store_unavailable`: nothing was started.
    NothingStarted,
    /// 5xx `start_outcome_unknown`.
    OutcomeUnknown,
    /// 409 `start_in_progress`.
    InProgress,
    /// 409 `start_outcome_unknown`.
    StillUnknown,
}

/// What stands under a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Entry {
    Nothing,
    Intent(Intent),
    /// The mark of a start that was given up or is over: a late write of it changes nothing.
    Gone {
        token: Place,
        /// Whether another gateway had taken it over.
        is_taken: bool,
    },
}

/// An intent as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Intent {
    pub(super) token: Place,
    pub(super) backend: BackendName,
    pub(super) state: State,
    /// Whether the body to ask workers again with is there.
    pub(super) resend: bool,
    /// Whether its deadline has passed.
    pub(super) is_late: bool,
    /// Whether another gateway has ever taken it over.
    pub(super) is_taken: bool,
    /// Whether the process that wrote it has ended, where that can be known: in the embedded store.
    pub(super) is_orphan: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum State {
    Running,
    Unknown,
    /// Another gateway has taken it over and asks workers.
    Asked,
    Answered(Told),
}

/// What becomes of the intent of a job whose owner is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Closing {
    Forget,
    Keep(Told),
}

/// A write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Write {
    Claim { key: Place, token: Place, backend: BackendName, resend: bool },
    Move { key: Place },
    Release { key: Place, token: Place },
    MarkUnknown { key: Place },
    KeepAnswer { key: Place, token: Place, told: Told },
    Close { key: Place, token: Place, closing: Closing },
    Owner { job: JobPlace, backend: BackendName },
}

/// What a write that was carried out says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Said {
    Done,
    NotThere,
    /// Another start has the key.
    Held,
}

/// How a write can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Luck {
    Well,
    /// It fails and is not written.
    NotWritten,
    /// Its answer is lost: it was written.
    LostWritten,
    /// Its answer is lost: it was not written.
    LostUnwritten,
    /// Its answer is lost, and it is written some time later.
    LostLate,
    /// It was sent twice since its first answer was lost; the first copy arrives some time later.
    Twice,
}

/// The store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Store {
    pub(super) keys: Vec<Entry>,
    /// The tokens, a bit each, of starts that gave a key up which was another's then, or was another's since.
    dead: Vec<u8>,
    /// The stored owner of each job that was made.
    pub(super) owners: Vec<Option<BackendName>>,
    /// Writes that arrive some time later.
    pub(super) late: Vec<Write>,
}

impl Store {
    pub(super) fn new(keys: u8) -> Store {
        Store {
            keys: vec![Entry::Nothing; usize::from(keys)],
            dead: vec![0; usize::from(keys)],
            owners: Vec::new(),
            late: Vec::new(),
        }
    }

    pub(super) fn intent(&self, key: Place) -> Option<&Intent> {
        match &self.keys[usize::from(key)] {
            Entry::Intent(intent) => Some(intent),
            Entry::Nothing | Entry::Gone { .. } => None,
        }
    }

    pub(super) fn intent_mut(&mut self, key: Place) -> Option<&mut Intent> {
        match &mut self.keys[usize::from(key)] {
            Entry::Intent(intent) => Some(intent),
            Entry::Nothing | Entry::Gone { .. } => None,
        }
    }

    /// Carries a write out, as the scripts of Redis and the statements of SQLite do.
    pub(super) fn apply(&mut self, write: Write) -> Said {
        match write {
            Write::Claim { key, token, backend, resend } => self.claim(key, token, backend, resend),
            Write::Move { key } => match self.intent_mut(key) {
                Some(intent) if intent.state == State::Running => {
                    (intent.backend, intent.resend, intent.is_late) = (BackendName::Legacy, false, false);
                    Said::Done
                }
                _ => Said::NotThere,
            },
            Write::Release { key, token } => self.release(key, token),
            Write::MarkUnknown { key } => {
                if let Some(intent) = self.intent_mut(key)
                    && !matches!(intent.state, State::Answered(_))
                {
                    (intent.state, intent.resend) = (State::Unknown, false);
                }
                Said::Done
            }
            Write::KeepAnswer { key, token, told } => match self.intent_mut(key) {
                Some(intent) if intent.token == token && intent.is_taken => Said::NotThere,
                Some(intent) if intent.token == token => {
                    (intent.state, intent.resend) = (State::Answered(told), false);
                    Said::Done
                }
                _ => Said::Done,
            },
            Write::Close { key, token, closing } => {
                if self.intent(key).is_some_and(|intent| intent.token == token) {
                    match (closing, self.intent_mut(key)) {
                        (Closing::Keep(told), Some(intent)) => {
                            (intent.state, intent.resend) = (State::Answered(told), false);
                        }
                        (_, intent) => {
                            let is_taken = intent.is_some_and(|intent| intent.is_taken);
                            self.keys[usize::from(key)] = Entry::Gone { token, is_taken };
                        }
                    }
                }
                Said::Done
            }
            Write::Owner { job, backend } => {
                self.owners[usize::from(job)] = Some(backend);
                Said::Done
            }
        }
    }

    fn claim(&mut self, key: Place, token: Place, backend: BackendName, resend: bool) -> Said {
        let (entry, dead) = (&mut self.keys[usize::from(key)], &mut self.dead[usize::from(key)]);
        match entry {
            Entry::Intent(intent) if intent.token == token => return Said::Done,
            Entry::Gone { token: gone, .. } if *gone == token => return Said::NotThere,
            _ if *dead & (1 << token) != 0 => return Said::NotThere,
            Entry::Intent(_) => return Said::Held,
            Entry::Gone { token: gone, .. } => *dead |= 1 << *gone,
            Entry::Nothing => {}
        }
        let state = State::Running;
        *entry =
            Entry::Intent(Intent { token, backend, state, resend, is_late: false, is_taken: false, is_orphan: false });
        Said::Done
    }

    fn release(&mut self, key: Place, token: Place) -> Said {
        let entry = &mut self.keys[usize::from(key)];
        match entry {
            Entry::Intent(Intent { token: other, .. }) | Entry::Gone { token: other, .. } if *other != token => {
                self.dead[usize::from(key)] |= 1 << token;
                Said::Done
            }
            Entry::Intent(Intent { is_taken: true, .. }) | Entry::Gone { is_taken: true, .. } => Said::NotThere,
            Entry::Intent(_) | Entry::Gone { .. } | Entry::Nothing => {
                *entry = Entry::Gone { token, is_taken: false };
                Said::Done
            }
        }
    }

    /// Leaves out what means nothing any more, so that worlds that are alike are equal.
    pub(super) fn tidy(&mut self) {
        self.late.sort_unstable();
        for entry in &mut self.keys {
            if let Entry::Intent(intent) = entry
                && matches!(intent.state, State::Unknown | State::Answered(_))
            {
                (intent.is_late, intent.is_orphan, intent.resend) = (false, false, false);
            }
        }
    }
}
