//! Whether Redis keeps what it is given: found out by asking it, and said aloud when it does not.

use redis::{Cmd, Value};

use super::connect::Link;
use super::context::Context;

/// What Redis says about itself; `None`: it does not say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Settings {
    append_only: Option<bool>,
    append_sync: Option<String>,
    eviction: Option<String>,
}

/// Asks Redis, and takes note of what is wrong with it. (Of one node of a Cluster; they should be alike.)
pub(super) async fn look(context: &Context, link: &Link) {
    let settings = ask(link).await;
    if settings.append_only == Some(true) && settings.append_sync.is_none() {
        tracing::info!(store = context.location.to_string(), "redis does not say when it syncs what it is given");
    }
    context.set_warnings(judge(&settings, context.replicas));
}

async fn ask(link: &Link) -> Settings {
    let mut settings = Settings::default();
    for name in ["appendonly", "appendfsync", "maxmemory-policy"] {
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg(name);
        let value = config(link, &command, name).await;
        match name {
            "appendonly" => settings.append_only = value.map(|word| word == "yes"),
            "appendfsync" => settings.append_sync = value,
            _ => settings.eviction = value,
        }
    }
    if settings.append_only.is_none() || settings.eviction.is_none() {
        // Refused, as where somebody else runs Redis: then what it says to everybody.
        let mut command = redis::cmd("INFO");
        command.arg("all");
        if let Ok(text) = link.read(&command).await.map(redis::from_redis_value::<String>)
            && let Ok(text) = text
        {
            let said = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            settings.append_only = settings.append_only.or(said("aof_enabled").map(|word| word.trim() == "1"));
            settings.eviction = settings.eviction.or(said("maxmemory_policy").map(|word| word.trim().to_owned()));
        }
    }
    settings
}

/// `CONFIG GET` answers a list of one name and its value (RESP2).
async fn config(link: &Link, command: &Cmd, name: &str) -> Option<String> {
    let value: Value = link.read(command).await.ok()?;
    let pairs: Vec<String> = redis::from_redis_value(value).ok()?;
    pairs.chunks_exact(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone())
}

fn judge(settings: &Settings, replicas: u32) -> Vec<String> {
    let mut warnings = Vec::new();
    // With replicas waited for, a write is in several memories when it is answered: that was chosen.
    if replicas == 0 && settings.append_only == Some(false) {
        warnings.push(
            "Redis keeps job owners in memory alone (appendonly no): a restart of it loses them; \
             set appendonly yes and appendfsync always"
                .to_owned(),
        );
    } else if replicas == 0
        && let Some(sync) = settings.append_sync.as_deref().filter(|sync| *sync != "always")
    {
        warnings.push(format!(
            "Redis answers before a job's owner is on its disk (appendfsync {sync}): a crash of its machine loses \
             the last second or more; set appendfsync always"
        ));
    }
    if let Some(policy) = settings.eviction.as_deref().filter(|policy| *policy != "noeviction") {
        warnings.push(format!(
            "Redis may throw job owners away when its memory is full (maxmemory-policy {policy}); set noeviction"
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_redis_that_keeps_everything_passes_without_a_word() {
        let is = |append_only, sync: Option<&str>, eviction: Option<&str>| Settings {
            append_only,
            append_sync: sync.map(str::to_owned),
            eviction: eviction.map(str::to_owned),
        };
        let count = |settings: &Settings, replicas| judge(settings, replicas).len();
        assert_eq!(count(&is(Some(true), Some("always"), Some("noeviction")), 0), 0);
        assert_eq!(count(&is(Some(true), Some("everysec"), Some("noeviction")), 0), 1);
        assert_eq!(count(&is(Some(false), Some("always"), Some("allkeys-lru")), 0), 2);
        assert_eq!(count(&is(Some(false), Some("everysec"), Some("volatile-ttl")), 1), 1);
        assert_eq!(count(&Settings::default(), 0), 0, "what it does not say is not held against it");
    }
}
