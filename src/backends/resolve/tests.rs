//! Names by a look-up that the test answers: who waits for what, and how much runs at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;

use super::*;

/// A resolver whose look-ups are held until the test has an answer for them.
struct Bench {
    resolver: Resolver,
    answers: SyncSender<io::Result<Vec<SocketAddr>>>,
    begun: Arc<AtomicUsize>,
}

impl Bench {
    fn new() -> Bench {
        let (answers, queue) = mpsc::sync_channel(64);
        let (queue, begun) = (Arc::new(Mutex::new(queue)), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&begun);
        let resolver = Resolver::asking(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            queue.lock().expect("no panic").recv().unwrap_or_else(|_| Err(io::Error::other("the test is over")))
        });
        Bench { resolver, answers, begun }
    }

    fn name(&self) -> Arc<Name> {
        self.resolver.name("workers.example").expect("a name")
    }

    fn answer(&self, address: &str) {
        self.answers.send(Ok(vec![at(address)])).expect("somebody asks");
    }

    fn fail(&self) {
        self.answers.send(Err(io::Error::other("resolver away"))).expect("somebody asks");
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }
}

fn at(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), 0)
}

/// When whatever is known now is no longer fresh.
fn later() -> Instant {
    Instant::now() + limits::DNS_FRESH
}

#[test]
fn an_address_is_no_name() {
    let bench = Bench::new();
    assert!(bench.resolver.name("127.0.0.1").is_none() && bench.resolver.name("::1").is_none());
    assert!(Arc::ptr_eq(&bench.name(), &bench.name()));
}

#[tokio::test]
async fn many_askers_share_one_look_up() {
    let bench = Bench::new();
    let name = bench.name();
    let asks = (0..100).map(|_| name.resolve(Instant::now()));
    let answer = async {
        // All the others have begun to wait.
        tokio::task::yield_now().await;
        bench.answer("10.0.0.1");
    };
    let (found, ()) = tokio::join!(futures_util::future::join_all(asks), answer);
    assert!(found.iter().all(|it| it.as_ref().is_ok_and(|it| **it == [at("10.0.0.1")])), "{found:?}");
    // Fresh, it is not asked for again.
    assert_eq!(*name.resolve(Instant::now()).await.expect("known"), [at("10.0.0.1")]);
    assert_eq!(bench.begun(), 1);
}

#[tokio::test]
async fn what_is_not_fresh_is_asked_for_again() {
    let bench = Bench::new();
    let name = bench.name();
    bench.answer("10.0.0.1");
    name.resolve(Instant::now()).await.expect("found");
    let before = name.changes();
    bench.answer("10.0.0.2");
    assert_eq!(*name.resolve(later()).await.expect("found"), [at("10.0.0.2")]);
    assert!(name.changes() > before);
    assert_eq!((name.has(at("10.0.0.1").ip()), name.has(at("10.0.0.2").ip())), (false, true));
    bench.answer("10.0.0.2");
    name.resolve(later()).await.expect("found");
    assert_eq!((name.changes(), bench.begun()), (before + 1, 3));
}

#[tokio::test]
async fn the_last_good_addresses_stay_while_look_ups_fail() {
    let bench = Bench::new();
    let name = bench.name();
    bench.fail();
    let error = name.resolve(Instant::now()).await.expect_err("there never was an address");
    assert_eq!(error.to_string(), "resolver away");
    bench.answer("10.0.0.1");
    name.resolve(later()).await.expect("found");
    let before = name.changes();
    bench.fail();
    assert_eq!(*name.resolve(later()).await.expect("kept"), [at("10.0.0.1")]);
    bench.answers.send(Ok(Vec::new())).expect("somebody asks");
    assert_eq!(*name.resolve(later()).await.expect("kept"), [at("10.0.0.1")]);
    assert_eq!((name.changes(), bench.begun()), (before, 4));
}

#[tokio::test]
async fn a_look_up_that_hangs_is_waited_for_just_at_its_beginning() {
    let bench = Bench::new();
    let name = bench.name();
    name.tell(Ok(vec![at("10.0.0.1")]));
    let (asked, began) = (later(), Instant::now());
    assert_eq!(*name.resolve(asked).await.expect("kept"), [at("10.0.0.1")]);
    assert!(began.elapsed() >= limits::DNS_PATIENCE);
    // Those who come later do not wait at all.
    let later = name.resolve(asked + limits::DNS_PATIENCE).now_or_never().expect("no waiting");
    assert_eq!(*later.expect("kept"), [at("10.0.0.1")]);
    assert!(bench.begun() <= 1);
}

#[test]
fn look_ups_that_hang_hold_a_few_threads_and_no_more() {
    let bench = Bench::new();
    let names: Vec<_> = (0..1_000).map(|n| bench.resolver.name(&format!("{n}.example")).expect("a name")).collect();
    names.iter().for_each(|name| name.touch(Instant::now()));
    let held = limits::DNS_THREADS + limits::DNS_QUEUE;
    let waiting = names.iter().filter(|name| name.known.borrow().asked.is_some()).count();
    // A thread may have taken one before or after the queue was full.
    assert!((limits::DNS_QUEUE..=held).contains(&waiting), "{waiting}");
    assert!(bench.begun() <= limits::DNS_THREADS);
    let refused = names[999].known.borrow().result().expect_err("there was no room");
    assert_eq!(refused.to_string(), "too many look-ups are under way");
}

#[test]
fn names_that_nobody_holds_are_forgotten() {
    let bench = Bench::new();
    let held = bench.name();
    for n in 0..100 {
        bench.resolver.name(&format!("{n}.example")).expect("a name");
    }
    assert_eq!(bench.resolver.names.lock().expect("no panic").len(), 2);
    assert!(Arc::ptr_eq(&held, &bench.name()));
}

#[tokio::test]
async fn the_systems_own_resolver_knows_this_machine() {
    let name = Resolver::start().name("localhost").expect("a name");
    assert!(
        name.resolve(Instant::now()).await.expect("found").iter().all(|it| it.ip().is_loopback() && it.port() == 0)
    );
}
