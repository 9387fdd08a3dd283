//! Every way people change a file, on real files, with the time until it is live.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Mutex;
use std::thread::sleep;

use tempfile::TempDir;

use super::*;

mod attached;

const MS: Duration = Duration::from_millis(1);
/// What is promised.
const LIVE: Duration = Duration::from_secs(1);

/// A good file that moves `percent` of users.
fn text(percent: u16) -> String {
    let urls = "[backends.legacy]\nurl = \"http://l\"\n[backends.workers]\nurl = \"http://w\"\n";
    format!("{urls}[rollout]\nworkers = true\npercent = {percent}\n# padding\n")
}

fn marked(percent: u16) -> String {
    text(percent) + "# END\n"
}

struct Setup {
    dir: TempDir,
    path: PathBuf,
    table: Arc<ArcSwap<RoutingTable>>,
    status: Arc<ReloadStatus>,
    applied: Arc<Mutex<Vec<u16>>>,
    handle: ReloadHandle,
}

fn no_env(_: &str) -> Option<String> {
    None
}

fn watch_file(dir: TempDir, path: PathBuf) -> Setup {
    let (table, _) = config::load_file(&path, &no_env).expect("the first file is good");
    let table = Arc::new(ArcSwap::from_pointee(table));
    let status = Arc::new(ReloadStatus::default());
    let applied: Arc<Mutex<Vec<u16>>> = Arc::default();
    let seen = Arc::clone(&applied);
    let on_applied = move |table: &Arc<RoutingTable>| seen.lock().unwrap().push(table.rollout.share.hundredths() / 100);
    let handle =
        spawn(path.clone(), Arc::clone(&table), Arc::clone(&status), Box::new(no_env), Box::new(on_applied)).unwrap();
    sleep(30 * MS); // The first look, at what serves already.
    Setup { dir, path, table, status, applied, handle }
}

fn setup(first: &str) -> Setup {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.toml");
    fs::write(&path, first).unwrap();
    watch_file(dir, path)
}

impl Setup {
    fn percent(&self) -> u16 {
        self.table.load().rollout.share.hundredths() / 100
    }

    /// Waits until `done`, and returns how long that took.
    fn wait(&self, what: &str, done: impl Fn(&Setup) -> bool) -> Duration {
        let began = Instant::now();
        while !done(self) {
            assert!(began.elapsed() < 5 * LIVE, "{what}: {:?}", self.status.get());
            sleep(MS / 5);
        }
        began.elapsed()
    }

    fn live(&self, percent: u16) -> Duration {
        self.wait(&format!("{percent} % is live"), |setup| setup.percent() == percent)
    }

    fn problem(&self) -> String {
        self.status.get().problems.join("\n")
    }
}

/// Makes eleven edits and returns the median time until one is live.
fn median(setup: &Setup, edit: impl Fn(&Setup, &str)) -> Duration {
    let mut times: Vec<Duration> = (10..21)
        .map(|percent| {
            edit(setup, &text(percent));
            setup.live(percent)
        })
        .collect();
    times.sort();
    assert!(times[10] < LIVE, "{times:?}");
    eprintln!("median {:?}, slowest {:?}", times[5], times[10]);
    times[5]
}

fn rename_over(path: &Path, text: &str) {
    let other = path.with_extension("tmp");
    fs::write(&other, text).unwrap();
    fs::rename(&other, path).unwrap();
}

#[test]
fn written_in_place() {
    let setup = setup(&text(1));
    let median = median(&setup, |setup, text| fs::write(&setup.path, text).unwrap());
    assert!(median >= limits::CONFIG_SETTLE && median < 100 * MS, "{median:?}");
}

#[test]
fn renamed_over() {
    let setup = setup(&text(1));
    let median = median(&setup, |setup, text| rename_over(&setup.path, text));
    assert!(median < 25 * MS, "{median:?}");
}

#[test]
fn truncated_and_written_slowly() {
    let setup = setup(&marked(1));
    let whole = marked(30);
    let mut file = fs::File::create(&setup.path).unwrap();
    for piece in whole.as_bytes().chunks(40) {
        use std::io::Write;
        sleep(80 * MS); // Longer than it takes to settle: every piece is looked at.
        file.write_all(piece).unwrap();
        assert_eq!(setup.percent(), 1);
    }
    assert!(setup.live(30) < LIVE);
    setup.wait("listeners are told", |setup| *setup.applied.lock().unwrap() == [30]);
    setup.wait("all is well", |setup| setup.problem().is_empty());
    assert!(setup.status.get().count(Outcome::Incomplete) >= 2);
    assert_eq!(setup.status.get().count(Outcome::Rejected), 0);
}

/// What kubelet does: `gateway.toml → ..data/gateway.toml`, `..data → ..<time>`, swapped by one rename.
#[test]
fn swapped_as_a_config_map() {
    let dir = tempfile::tempdir().unwrap();
    let publish = |dir: &Path, name: &str, text: &str| {
        fs::create_dir(dir.join(name)).unwrap();
        fs::write(dir.join(name).join("gateway.toml"), text).unwrap();
        symlink(name, dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    };
    publish(dir.path(), "..2026_0", &text(1));
    symlink("..data/gateway.toml", dir.path().join("gateway.toml")).unwrap();
    let path = dir.path().join("gateway.toml");
    let setup = watch_file(dir, path);
    let median = median(&setup, |setup, text| {
        let old = fs::read_link(setup.dir.path().join("..data")).unwrap();
        publish(setup.dir.path(), &format!("..2026_{}", config::hash(text.as_bytes())), text);
        fs::remove_dir_all(setup.dir.path().join(old)).unwrap();
    });
    assert!(median < 25 * MS, "{median:?}");
}

#[test]
fn deleted_and_recreated() {
    let setup = setup(&text(1));
    for percent in 2..5 {
        fs::remove_file(&setup.path).unwrap();
        setup.wait("its loss is noticed", |setup| !setup.problem().is_empty());
        assert!(setup.problem().contains("cannot be read: no such file"), "{}", setup.problem());
        assert_eq!(setup.percent(), percent - 1);
        fs::write(&setup.path, text(percent)).unwrap();
        let took = setup.live(percent);
        eprintln!("recreated: {took:?}");
        assert!(took < LIVE);
        setup.wait("all is well", |setup| setup.problem().is_empty());
    }
    // Deleted and recreated at once, and slowly: never half a file.
    fs::remove_file(&setup.path).unwrap();
    let whole = text(50);
    fs::write(&setup.path, &whole[..whole.len() - 14]).unwrap();
    sleep(20 * MS);
    fs::write(&setup.path, &whole).unwrap();
    setup.live(50);
    setup.wait("listeners are told", |setup| *setup.applied.lock().unwrap() == [2, 3, 4, 50]);
}

#[test]
fn two_edits_of_equal_length_within_a_second() {
    let setup = setup(&text(10));
    let (second, third) = (text(11), text(12));
    assert_eq!(second.len(), third.len());
    let modified = |setup: &Setup| fs::metadata(&setup.path).unwrap().modified().unwrap();
    fs::write(&setup.path, second).unwrap();
    let time = modified(&setup);
    setup.live(11);
    fs::write(&setup.path, third).unwrap();
    // Even the timestamp is the same: only the content differs.
    fs::File::open(&setup.path).unwrap().set_modified(time).unwrap();
    assert!(setup.live(12) < LIVE);
    setup.wait("listeners are told", |setup| *setup.applied.lock().unwrap() == [11, 12]);
}

#[test]
fn a_link_pointed_elsewhere() {
    let (dir, far) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = dir.path().join("gateway.toml");
    fs::write(far.path().join("first.toml"), text(1)).unwrap();
    symlink(far.path().join("first.toml"), &path).unwrap();
    let setup = watch_file(dir, path);
    let times = median(&setup, |setup, text| {
        let target = far.path().join(config::hash(text.as_bytes()));
        fs::write(&target, text).unwrap();
        symlink(&target, setup.path.with_extension("new")).unwrap();
        fs::rename(setup.path.with_extension("new"), &setup.path).unwrap();
    });
    assert!(times < 25 * MS, "{times:?}");
    // The file behind the link is edited, in a folder that only the link leads to.
    let median = median(&setup, |setup, text| fs::write(fs::read_link(&setup.path).unwrap(), text).unwrap());
    assert!(median < 100 * MS, "{median:?}");
}

#[test]
fn the_folder_itself_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("conf");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("gateway.toml"), text(1)).unwrap();
    let setup = watch_file(dir, folder.join("gateway.toml"));
    for percent in 2..5 {
        fs::rename(&folder, setup.dir.path().join(format!("old{percent}"))).unwrap();
        fs::create_dir(&folder).unwrap();
        fs::write(&setup.path, text(percent)).unwrap();
        let took = setup.live(percent);
        eprintln!("folder replaced: {took:?}");
        assert!(took < LIVE);
        // The new folder is watched.
        rename_over(&setup.path, &text(percent + 20));
        let took = setup.live(percent + 20);
        assert!(took < 200 * MS, "{took:?}");
    }
}

#[test]
fn without_events_the_clock_sees_every_edit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.toml");
    fs::write(&path, text(1)).unwrap();
    let table = Arc::new(ArcSwap::from_pointee(config::load_file(&path, &no_env).expect("it is good").0));
    let (bell, wake) = Bell::new();
    let reloader = Reloader {
        base_dir: dir.path().to_path_buf(),
        judged: Content::Text(table.load_full().hash.clone()),
        resolved: path.canonicalize().ok(),
        watch: Watch::blind(path.clone(), bell.clone()),
        path: path.clone(),
        table: Arc::clone(&table),
        status: Arc::default(),
        env: Box::new(no_env),
        on_applied: Box::new(|_| panic!("a listener that panics ends nothing")),
        bell,
        pending: None,
        attached: Attached::default(),
        warnings: Vec::new(),
    };
    let _handle = start(reloader, wake).unwrap();
    let edits: [fn(&Path, &str); 4] = [
        |path, text| fs::write(path, text).unwrap(),
        rename_over,
        |path, text| fs::write(path, text).unwrap(),
        rename_over,
    ];
    for (edit, percent) in edits.into_iter().zip(10..) {
        sleep(70 * MS);
        let began = Instant::now();
        edit(&path, &text(percent));
        while table.load().rollout.share.hundredths() != percent * 100 {
            assert!(began.elapsed() < LIVE);
            sleep(MS);
        }
    }
}

#[test]
fn a_bad_file_changes_nothing() {
    let setup = setup(&marked(1));
    let cases = [
        (String::new(), "is empty", Outcome::Incomplete),
        (" \n".to_owned(), "is empty", Outcome::Incomplete),
        (text(5), "does not end with # END", Outcome::Incomplete),
        (marked(250), "gateway.toml:7: rollout.percent: 250 is not between 0 and 100", Outcome::Rejected),
        (format!("x = [\n{}", marked(5)), "is not valid TOML", Outcome::Rejected),
        (format!("{}# END", "#".repeat(2_000_000)), "is larger than", Outcome::Rejected),
    ];
    for (text, expected, outcome) in cases {
        let before = setup.status.get().count(outcome);
        rename_over(&setup.path, &text);
        setup.wait(expected, |setup| setup.problem().contains(expected));
        sleep(120 * MS);
        let state = setup.status.get();
        assert!(!state.is_successful());
        assert_eq!((setup.percent(), state.count(outcome)), (1, before + 1), "{expected}");
    }
    // A folder in its place, then nothing, then what serves already: all is well, nothing was applied.
    fs::remove_file(&setup.path).unwrap();
    fs::create_dir(&setup.path).unwrap();
    setup.wait("it is a folder", |setup| setup.problem().contains("not a plain file"));
    fs::remove_dir(&setup.path).unwrap();
    setup.wait("it is gone", |setup| setup.problem().contains("no such file"));
    fs::write(&setup.path, marked(1)).unwrap();
    setup.wait("all is well", |setup| setup.status.get().is_successful());
    assert!(setup.applied.lock().unwrap().is_empty());
    fs::write(&setup.path, marked(2)).unwrap();
    setup.live(2);
}

#[test]
fn keys_that_need_a_restart_are_named() {
    let setup = setup(&text(1));
    let moved = "[server]\nlisten = \"127.0.0.1:1\"\nthreads = 1024\n[admin]\nlisten = \"127.0.0.1:2\"\n[jobs]\nstore = \"x.db\"\n";
    rename_over(&setup.path, &format!("{}{moved}", text(2)));
    setup.live(2);
    setup.wait("it is recorded", |setup| !setup.status.get().needs_restart.is_empty());
    let state = setup.status.get();
    assert_eq!(state.needs_restart, ["server.listen", "server.threads", "admin.listen", "jobs.store"]);
    assert!(state.is_successful());
    assert_eq!(setup.table.load().fixed.listen.port(), 8080);
    rename_over(&setup.path, &text(3));
    setup.live(3);
    setup.wait("nothing waits any more", |setup| setup.status.get().needs_restart.is_empty());
}

#[test]
fn replicas_that_are_waited_for_need_a_restart_and_are_named_apart_from_the_store() {
    let redis = |number, wait| format!("{}[jobs]\nstore = \"redis://h\"\nwait_replicas = {wait}\n", text(number));
    let setup = setup(&redis(1, 0));
    rename_over(&setup.path, &redis(2, 1));
    setup.live(2);
    setup.wait("it is recorded", |setup| setup.status.get().needs_restart == ["jobs.wait_replicas"]);
}

#[test]
fn a_flood_of_edits_ends_with_the_last() {
    let seconds = std::env::var("FLOOD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let setup = setup(&text(1));
    let edits: [fn(&Path, &str); 2] = [|path, text| fs::write(path, text).unwrap(), rename_over];
    for (edit, last) in edits.into_iter().zip([95, 96]) {
        let began = Instant::now();
        let mut percent = 0;
        while began.elapsed() < seconds * LIVE {
            percent = (percent + 1) % 90;
            edit(&setup.path, &text(percent));
            sleep(10 * MS);
        }
        edit(&setup.path, &text(last));
        let took = setup.live(last);
        eprintln!("after the flood: {took:?}, {} looks", setup.status.looks());
        assert!(took < LIVE);
    }
    assert_eq!(setup.status.get().history.len(), limits::RELOAD_HISTORY);
}

#[test]
fn an_idle_reloader_rests_and_can_be_kicked_and_stopped() {
    let setup = setup(&text(1));
    // By the clock only: its own reading must not wake it.
    let before = setup.status.looks();
    sleep(3 * limits::CONFIG_POLL + limits::CONFIG_POLL / 2);
    let looks = setup.status.looks() - before;
    assert!((2..=4).contains(&looks), "{looks}");
    setup.handle.kick();
    setup.wait("it looks", |setup| setup.status.looks() == before + looks + 1);
    // Other files of the folder: many events, few looks.
    let (before, began) = (setup.status.looks(), Instant::now());
    while began.elapsed() < LIVE / 2 {
        fs::write(setup.dir.path().join("other"), "x").unwrap();
    }
    let looks = setup.status.looks() - before;
    eprintln!("{looks} looks in a storm of 500 ms");
    assert!(looks <= 260, "{looks}");
    assert_eq!(setup.status.get().history.len(), 0);
    let began = Instant::now();
    drop(setup.handle);
    assert!(began.elapsed() < 200 * MS);
    fs::write(&setup.path, text(9)).unwrap();
    sleep(200 * MS);
    assert_eq!(setup.table.load().rollout.share.hundredths(), 100);
}
