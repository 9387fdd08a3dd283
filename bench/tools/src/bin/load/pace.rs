//! When the next request is due: at once, or at a fixed rate that no slow answer holds up.

use std::fs;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Hands out the times at which requests are due.
#[derive(Clone)]
pub struct Pace(Option<Rc<Mutex<UnboundedReceiver<Instant>>>>);

/// Starts the pace.
pub struct Start(Option<(UnboundedSender<Instant>, f64)>);

impl Pace {
    /// `rate` is in requests a second; `None`: as fast as answers come.
    pub fn new(rate: Option<f64>) -> (Pace, Start) {
        let Some(rate) = rate else { return (Pace(None), Start(None)) };
        let (due, wanted) = unbounded_channel();
        (Pace(Some(Rc::new(Mutex::new(wanted)))), Start(Some((due, rate))))
    }

    /// Waits until a request is due; `None` when no more is to be begun.
    pub async fn next(&self, end: Instant) -> Option<Instant> {
        match &self.0 {
            Some(wanted) => wanted.lock().await.recv().await,
            None => Some(Instant::now()).filter(|now| *now < end),
        }
    }
}

impl Start {
    /// A thread that sleeps from one time to the next: the runtime's own timers know whole milliseconds only.
    pub fn start(self, length: Duration) {
        let Some((due, rate)) = self.0 else { return };
        // The kernel may wake a thread 50 µs late; 1 µs is asked for. Refused, all that is measured is 50 µs longer.
        let _ = fs::write("/proc/self/timerslack_ns", "1000");
        thread::spawn(move || {
            let began = Instant::now();
            for number in 0..(length.as_secs_f64() * rate) as u64 {
                let time = began + Duration::from_secs_f64(number as f64 / rate);
                thread::sleep(time.saturating_duration_since(Instant::now()));
                if due.send(time).is_err() {
                    return;
                }
            }
        });
    }
}
