//! The keys, and the scripts: each about one key, whole or not at all, and to be repeated at will.
//!
//! They are sent by their text (`EVAL`), which Redis compiles once: no server has to be told of them beforehand.

use redis::Cmd;

use crate::names::{BackendName, JobId};

/// Names the keys of one gateway's store.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Keys {
        Keys { prefix: prefix.to_owned() }
    }

    /// A hash: a job and its owner.
    pub(super) fn job(&self, id: &JobId) -> String {
        format!("{}:job:{id}", self.prefix)
    }

    /// A hash: a start, and what is kept of it for a client's key.
    pub(super) fn intent(&self, key: &str) -> String {
        format!("{}:intent:{key}", self.prefix)
    }

    /// A sorted set: ids of jobs that are not known to be over, by the time of their start.
    pub(super) fn open_jobs(&self, backend: BackendName) -> String {
        format!("{}:open-jobs:{backend}", self.prefix)
    }

    /// A sorted set: keys of starts that are under way or of unknown outcome, by time.
    pub(super) fn open_intents(&self) -> String {
        format!("{}:open-intents", self.prefix)
    }

    /// A text: which gateway does the work of the background.
    pub(super) fn lease(&self) -> String {
        format!("{}:lease", self.prefix)
    }

    /// A text: shows that writes succeed.
    pub(super) fn probe(&self) -> String {
        format!("{}:probe", self.prefix)
    }

    /// What all keys of jobs begin with, and all of intents.
    pub(super) fn beginnings(&self) -> [String; 2] {
        [format!("{}:job:", self.prefix), format!("{}:intent:", self.prefix)]
    }
}

/// Makes a command that runs a script on a key; the arguments are added by the caller.
pub(super) fn eval(script: &str, key: &str) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(1).arg(key);
    command
}

macro_rules! intent_fields {
    () => {
        "'v','request','user','export','backend','started','deadline','state','token','body','resend','status',\
         'type','answer'"
    };
}

/// How many bytes of tokens are kept of starts that gave a key up: some ten, the newest first.
macro_rules! dead_bytes {
    () => {
        "400"
    };
}

/// Reads an intent's fields, in the order of [`super::records::INTENT_FIELDS`].
pub(super) const READ_INTENT: &str = concat!("return redis.call('HMGET', KEYS[1], ", intent_fields!(), ")");

/// Writes an intent unless its key has another one. Arguments: token, time to live in ms, fields and values.
/// Returns `{1}`, or `{0, fields of the other}`, or `{2}`: this very start was given up before.
pub(super) const CLAIM: &str = concat!(
    "
local dead
if redis.call('EXISTS', KEYS[1]) == 1 then
  local is = redis.call('HMGET', KEYS[1], 'state', 'token', 'dead')
  if is[2] == ARGV[1] then
    if is[1] == 'gone' then return {2} end
    return {1}
  end
  if is[3] and string.find(is[3], ARGV[1], 1, true) then return {2} end
  if is[1] ~= 'gone' then return {0, redis.call('HMGET', KEYS[1], ",
    intent_fields!(),
    ")} end
  redis.call('DEL', KEYS[1])
  dead = string.sub((is[2] or '') .. ' ' .. (is[3] or ''), 1, ",
    dead_bytes!(),
    ")
end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
if dead then redis.call('HSET', KEYS[1], 'dead', dead) end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {1}"
);

/// Moves a running intent. Arguments: backend, deadline, shortest time to live in ms. Returns whether it was running.
pub(super) const MOVE: &str = "
if redis.call('HGET', KEYS[1], 'state') ~= 'running' then return 0 end
redis.call('HSET', KEYS[1], 'backend', ARGV[1], 'deadline', ARGV[2])
redis.call('HDEL', KEYS[1], 'resend')
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 1";

/// Frees a key if it is this start's or nobody's, and leaves a mark for a write of the same start that comes later: under
/// another start's key beside that one's. Arguments: token, time to live of the mark in ms, [`OWN`] or [`ANY`].
/// Returns 1, or 0: the key is another start's; or -1: another gateway has taken the start over.
pub(super) const RELEASE: &str = concat!(
    "
local is = redis.call('HMGET', KEYS[1], 'token', 'dead', 'asker')
if is[1] and is[1] ~= ARGV[1] then
  if not (is[2] and string.find(is[2], ARGV[1], 1, true)) then
    redis.call('HSET', KEYS[1], 'dead', string.sub(ARGV[1] .. ' ' .. (is[2] or ''), 1, ",
    dead_bytes!(),
    "))
  end
  return 0
end
if is[3] and ARGV[3] == 'own' then return -1 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'v', '1', 'state', 'gone', 'token', ARGV[1])
if is[2] then redis.call('HSET', KEYS[1], 'dead', is[2]) end
if is[3] then redis.call('HSET', KEYS[1], 'asker', is[3]) end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1"
);

/// Changes an intent only if no other gateway has taken it over: what the start itself has seen is not all then.
pub(super) const OWN: &str = "own";
/// Changes an intent whoever has it: the job is known.
pub(super) const ANY: &str = "any";

/// Says that nobody knows the outcome. What is answered stays answered: another gateway may have found it out.
pub(super) const UNKNOWN: &str = "
local state = redis.call('HGET', KEYS[1], 'state')
if not state or state == 'gone' or state == 'answered' then return 0 end
redis.call('HSET', KEYS[1], 'state', 'unknown')
redis.call('HDEL', KEYS[1], 'resend')
return 1";

/// Keeps an answer. Arguments: token, status, body, [`OWN`] or [`ANY`], content type or nothing.
/// Returns 1, or 0: the token is gone; or -1: another gateway has taken the start over.
pub(super) const KEEP: &str = "
local is = redis.call('HMGET', KEYS[1], 'token', 'state', 'asker')
if is[1] ~= ARGV[1] or is[2] == 'gone' then return 0 end
if is[3] and ARGV[4] == 'own' then return -1 end
redis.call('HSET', KEYS[1], 'state', 'answered', 'status', ARGV[2], 'answer', ARGV[3])
if ARGV[5] then redis.call('HSET', KEYS[1], 'type', ARGV[5]) else redis.call('HDEL', KEYS[1], 'type') end
redis.call('HDEL', KEYS[1], 'resend')
return 1";

/// Takes an open start over, to ask workers again. Arguments: the gateway, now, until when it is left to it.
/// From then on the one that began it can move it no more.
pub(super) const ADOPT: &str = concat!(
    "
local is = redis.call('HMGET', KEYS[1], 'state', 'backend', 'deadline', 'asker', 'until')
if is[2] ~= 'workers' or redis.call('HEXISTS', KEYS[1], 'resend') == 0 then return false end
local now = tonumber(ARGV[2])
local free = is[1] == 'running' and (tonumber(is[3]) or 0) <= now
if is[1] == 'asked' then free = is[4] == ARGV[1] or (tonumber(is[5]) or 0) <= now end
if not free then return false end
redis.call('HSET', KEYS[1], 'state', 'asked', 'asker', ARGV[1], 'until', ARGV[3])
return redis.call('HMGET', KEYS[1], ",
    intent_fields!(),
    ")"
);

/// Writes a job: a found one never replaces one with a user, one that is over does not open again. Arguments: backend,
/// type, user (both may be empty), start, state, time to live in ms.
/// Returns whether it was written, the backend under which it was open before or nothing, and its state now.
pub(super) const PUT_JOB: &str = "
local was = redis.call('HMGET', KEYS[1], 'backend', 'user', 'state')
local open = ''
if was[3] == 'open' and was[1] then open = was[1] end
if was[2] and ARGV[3] == '' then return {0, open, was[3] or ''} end
local state = ARGV[5]
if was[1] == ARGV[1] and was[3] and was[3] ~= 'open' then state = was[3] end
redis.call('HSET', KEYS[1], 'v', '1', 'backend', ARGV[1], 'started', ARGV[4], 'state', state)
if ARGV[2] == '' then redis.call('HDEL', KEYS[1], 'export') else redis.call('HSET', KEYS[1], 'export', ARGV[2]) end
if ARGV[3] == '' then redis.call('HDEL', KEYS[1], 'user') else redis.call('HSET', KEYS[1], 'user', ARGV[3]) end
redis.call('PEXPIRE', KEYS[1], ARGV[6])
return {1, open, state}";

/// Says that a job is over. Arguments: state, token. Returns whether it was this that ended it, and its backend.
pub(super) const FINISH: &str = "
local is = redis.call('HMGET', KEYS[1], 'state', 'ended', 'backend')
if is[1] == 'open' then
  redis.call('HSET', KEYS[1], 'state', ARGV[1], 'ended', ARGV[2])
  return {1, is[3] or ''}
end
if is[1] and is[2] == ARGV[2] then return {1, ''} end
return {0, ''}";

/// Gives the lease up if this gateway has it. Arguments: the gateway.
pub(super) const RESIGN: &str = "
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0";

/// Takes or renews the lease. Arguments: the gateway, time in ms. Returns whether it has it.
pub(super) const LEASE: &str = "
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1";
