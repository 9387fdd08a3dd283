//! Measures the embedded job store beside an fsync of the same disk.
//!
//! `cargo run --release --example store_bench [FOLDER] [RECORDS]`: durable owners per second with 1 and 64 writers,
//! reads, and how long a store with many records (default 1,000,000) takes to open.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use export_gateway::jobs::clock::Clock;
use export_gateway::jobs::record::{Intent, IntentState, Job, JobState};
use export_gateway::jobs::{Jobs, Settings};
use export_gateway::names::{BackendName, ExportType, JobId, UserId};
use export_gateway::routing::table::StoreLocation;
use futures_util::future::join_all;

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let records: usize = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let folder = folder.join(format!("store-bench-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let result = measure(&mut io::stdout().lock(), &folder, records);
    fs::remove_dir_all(&folder)?;
    result
}

fn measure(out: &mut impl Write, folder: &Path, records: usize) -> io::Result<()> {
    let fsync = fsync(folder)?;
    writeln!(out, "fsync after a 4 KiB append: median {:?}, p99 {:?}", fsync.0, fsync.1)?;
    let path = folder.join("jobs.db");
    let jobs = open(&path)?;
    for (writers, each) in [(1, 2_000), (64, 2_000)] {
        let (rate, p50, p99) = owners(&jobs, writers, each);
        writeln!(out, "{writers} writers, owner only: {rate:.0}/s, p50 {p50:?}, p99 {p99:?}")?;
    }
    let (rate, p50, p99) = starts(&jobs, 64, 500);
    writeln!(out, "64 writers, intent then owner: {rate:.0} starts/s, p50 {p50:?}, p99 {p99:?}")?;

    let begin = Instant::now();
    let mut written = jobs.open_count(BackendName::Workers);
    while usize::try_from(written).is_ok_and(|written| written < records) {
        owners(&jobs, 2_000, 10);
        written = jobs.open_count(BackendName::Workers);
    }
    writeln!(out, "filled up to {written} open jobs in {:?}", begin.elapsed())?;
    let (rate, p50, p99) = owners(&jobs, 64, 2_000);
    writeln!(out, "64 writers, owner only, full store: {rate:.0}/s, p50 {p50:?}, p99 {p99:?}")?;
    runtime().block_on(jobs.close()).map_err(io::Error::other)?;

    let begin = Instant::now();
    let jobs = open(&path)?;
    let elapsed = begin.elapsed();
    let (count, size) = (jobs.open_count(BackendName::Workers), fs::metadata(&path)?.len() >> 20);
    writeln!(out, "open with {count} jobs, {size} MiB, structure check and count: {elapsed:?}")?;
    let (p50, p99) = reads(&jobs);
    writeln!(out, "reads past the cache: p50 {p50:?}, p99 {p99:?}")?;
    Ok(())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn open(path: &Path) -> io::Result<Jobs> {
    let settings = Settings {
        keep: Duration::from_secs(7 * 86_400),
        key_keep: Duration::from_secs(86_400),
        clock: Clock::system(),
    };
    let jobs = Jobs::open(&StoreLocation::File(path.to_owned()), settings).map_err(io::Error::other)?;
    jobs.health().map_err(io::Error::other)?;
    Ok(jobs)
}

fn fsync(folder: &Path) -> io::Result<(Duration, Duration)> {
    let mut file = File::create(folder.join("fsync"))?;
    let mut times = Vec::new();
    for _ in 0..500 {
        let begin = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        times.push(begin.elapsed());
    }
    Ok(quantiles(times))
}

fn quantiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

fn job() -> Job {
    // The random half in front: ids that come in no order, as workers' do.
    let id = uuid::Uuid::from_u128(uuid::Uuid::now_v7().as_u128().swap_bytes());
    Job {
        id: JobId::parse(&id.to_string()).expect("a UUID is a job id"),
        backend: BackendName::Workers,
        export: ExportType::parse("overlay"),
        user: UserId::from_text("user-1234"),
        started_ms: Clock::system().wall_ms(),
        state: JobState::Open,
    }
}

fn intent() -> Intent {
    let now = Clock::system().wall_ms();
    Intent {
        key: uuid::Uuid::now_v7().to_string().into(),
        request_id: "a-request".into(),
        user: UserId::from_text("user-1234"),
        export: ExportType::parse("overlay").expect("a type"),
        backend: BackendName::Workers,
        started_ms: now,
        deadline_ms: now + 65_000,
        state: IntentState::Running,
        claim: None,
        resend: None,
        answer: None,
    }
}

fn owners(jobs: &Jobs, writers: usize, each: usize) -> (f64, Duration, Duration) {
    run(writers, each, async || jobs.accept(job(), None).await.expect("stored"))
}

fn starts(jobs: &Jobs, writers: usize, each: usize) -> (f64, Duration, Duration) {
    run(writers, each, async || {
        let intent = intent();
        let key = intent.key.clone();
        jobs.begin(intent).await.expect("stored");
        jobs.accept(job(), Some(&key)).await.expect("stored");
    })
}

fn run(writers: usize, each: usize, write: impl AsyncFn()) -> (f64, Duration, Duration) {
    let begin = Instant::now();
    let write = &write;
    let times = runtime().block_on(join_all((0..writers).map(|_| async move {
        let mut times = Vec::with_capacity(each);
        for _ in 0..each {
            let begin = Instant::now();
            write().await;
            times.push(begin.elapsed());
        }
        times
    })));
    let rate = (writers * each) as f64 / begin.elapsed().as_secs_f64();
    let (p50, p99) = quantiles(times.into_iter().flatten().collect());
    (rate, p50, p99)
}

fn reads(jobs: &Jobs) -> (Duration, Duration) {
    let open = runtime().block_on(jobs.store().open_jobs(None, 5_000)).expect("readable");
    let mut times = Vec::new();
    runtime().block_on(async {
        for job in &open {
            let begin = Instant::now();
            jobs.store().job(&job.id).await.expect("readable");
            times.push(begin.elapsed());
        }
    });
    quantiles(times)
}
