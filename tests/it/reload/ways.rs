//! The seven ways of editing, how long each takes to be live, and that nobody notices.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::super::support::gateway::Gateway;
use super::super::support::parts::Set;
use super::load::Load;
use super::{Eye, LIVE, look, text, text_at};

/// A gateway, its file, and the percentage that the next edit sets.
struct Desk<'a> {
    set: &'a Set,
    gateway: &'a Gateway,
    eye: Eye,
    percent: i64,
}

impl Desk<'_> {
    fn next(&mut self) -> String {
        self.percent += 1;
        text_at(self.set, self.percent)
    }

    fn path(&self) -> std::path::PathBuf {
        self.gateway.config_path()
    }

    /// Makes the path a symbolic link to a file with the content that serves; nothing changes by that.
    fn link(&self, target: &Path) {
        let now = self.gateway.folder().join(target);
        fs::create_dir_all(now.parent().unwrap()).unwrap();
        fs::write(&now, text_at(self.set, self.percent)).unwrap();
        relink(target, &self.path());
    }
}

/// Points a link elsewhere in one step, as `ln -sfn` and Kubernetes do.
fn relink(target: &Path, link: &Path) {
    let new = link.with_file_name(".new-link");
    symlink(target, &new).unwrap();
    fs::rename(new, link).unwrap();
}

/// A way of editing: makes one edit, and says when its last byte was written.
type Way = (&'static str, fn(&mut Desk<'_>) -> Instant);

const WAYS: [Way; 7] = [
    ("in place", |desk| {
        let text = desk.next();
        fs::write(desk.path(), text).unwrap();
        Instant::now()
    }),
    ("atomic rename", |desk| {
        let text = desk.next();
        desk.gateway.write_by_rename(&text);
        Instant::now()
    }),
    ("truncated, written slowly", |desk| {
        let text = desk.next();
        let mut file = File::create(desk.path()).unwrap();
        let mut rest = text.as_str();
        // Each piece ends where the file would be valid, moving nobody, but for the line # END that is still to come.
        for end in ["\n[jobs]", "\n[rollout]", "\n[server]", ""] {
            // Longer than a file must hold still: each part of it is looked at, and must not be taken for an edit.
            sleep(Duration::from_millis(80));
            let at = if end.is_empty() { rest.len() } else { rest.find(end).expect("the section is there") };
            file.write_all(&rest.as_bytes()[..at]).unwrap();
            rest = &rest[at..];
        }
        Instant::now()
    }),
    ("Kubernetes ..data swap", |desk| {
        let folder = desk.gateway.folder().to_owned();
        let (old, new) = (format!("..{}", desk.percent), format!("..{}", desk.percent + 1));
        desk.link(&Path::new(&old).join("gateway.toml"));
        relink(Path::new(&old), &folder.join("..data"));
        relink(Path::new("..data/gateway.toml"), &desk.path());
        let text = desk.next();
        fs::create_dir_all(folder.join(&new)).unwrap();
        fs::write(folder.join(&new).join("gateway.toml"), text).unwrap();
        relink(Path::new(&new), &folder.join("..data"));
        let written = Instant::now();
        fs::remove_dir_all(folder.join(old)).unwrap();
        written
    }),
    ("deleted and recreated", |desk| {
        fs::remove_file(desk.path()).unwrap();
        super::within(super::DEADLINE, "the file is missed", || {
            (desk.gateway.metric("export_gateway_config_last_reload_successful", &[]) == 0.0).then_some(())
        });
        let text = desk.next();
        fs::write(desk.path(), text).unwrap();
        Instant::now()
    }),
    ("two of equal length in 1 s", |desk| {
        let first = desk.next();
        fs::write(desk.path(), &first).unwrap();
        let began = Instant::now();
        desk.eye.live(desk.percent, began);
        let second = desk.next();
        assert_eq!(first.len(), second.len());
        fs::write(desk.path(), second).unwrap();
        assert!(began.elapsed() < LIVE, "the first one was live after {:?}", began.elapsed());
        Instant::now()
    }),
    ("link pointed elsewhere", |desk| {
        desk.link(Path::new("first.toml"));
        let text = desk.next();
        fs::write(desk.gateway.folder().join("second.toml"), text).unwrap();
        relink(Path::new("second.toml"), &desk.path());
        Instant::now()
    }),
];

#[test]
fn every_way_of_editing_is_live_within_a_second_and_nobody_notices() {
    let rounds = if std::env::var_os("EXPORT_GATEWAY_LONG").is_some() { 3 } else { 1 };
    let set = Set::start();
    let gateway = Gateway::from_text(&text(&set, |_| {}));
    let load = Load::start(&gateway, &set);
    let mut desk = Desk { set: &set, gateway: &gateway, eye: Eye::open(&gateway), percent: 10 };
    let first = text_at(&set, desk.percent);
    gateway.write_by_rename(&first);
    desk.eye.live(desk.percent, Instant::now());
    let before = gateway.reloads();
    let mut times = vec![Vec::new(); WAYS.len()];
    for _ in 0..rounds {
        for ((_, edit), times) in WAYS.iter().zip(&mut times) {
            // From a plain file each time, whatever the way before has left; its content serves already.
            gateway.write_by_rename(&text_at(&set, desk.percent));
            look(&gateway);
            load.go_on();
            let written = edit(&mut desk);
            times.push(desk.eye.live(desk.percent, written));
        }
    }
    let reloads = gateway.reloads();
    let tally = load.finish();
    show(&mut times, &tally);
    let slowest = times.iter().flatten().max().unwrap();
    assert!(*slowest < LIVE, "{times:?}");
    assert_eq!(tally.failures, Vec::<String>::new());
    assert!(tally.requests > 100 && tally.echoes > 100, "a load that was none: {tally:?}");
    // Each edit was applied, and nothing that was only half an edit.
    assert_eq!(reloads["applied"] - before["applied"], (WAYS.len() as u64 + 1) * rounds, "{reloads:?}");
}

#[allow(clippy::print_stderr, reason = "the table is what the long form is run for")]
fn show(times: &mut [Vec<Duration>], tally: &super::load::Tally) {
    eprintln!("{:<28} {:>9} {:>9}", "edit", "median", "max");
    for ((name, _), times) in WAYS.iter().zip(times) {
        times.sort();
        let [median, max] = [times[times.len() / 2], times[times.len() - 1]].map(|time| time.as_secs_f64() * 1000.0);
        eprintln!("{name:<28} {median:>6.0} ms {max:>6.0} ms");
    }
    let seconds = tally.took.as_secs_f64();
    let rate = tally.requests as f64 / seconds;
    let (requests, failed, echoes) = (tally.requests, tally.failures.len(), tally.echoes);
    eprintln!(
        "{requests} requests in {seconds:.1} s ({rate:.0}/s), {failed} failed; 20 WebSockets, 0 cut, {echoes} echoes"
    );
}
