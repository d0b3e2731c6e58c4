//! Look-ups that may take long: lists, pages, searches. Only so many run at one time, and only so many wait, so that they take
//! neither threads nor the database from what hosts wait for.

use crate::store::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// As many as there are connections for them: one more would only wait for those.
const AT_ONCE: usize = crate::store::sqlite::READERS;
/// Requests that may wait for a slot; more are told to come back later.
const WAITING_MAX: u64 = 200;

/// The slots of look-ups, and what is counted of them.
pub struct Reads {
    slots: Arc<Semaphore>,
    waiting: AtomicU64,
    done: AtomicU64,
    refused: AtomicU64,
    micros: AtomicU64,
}

/// The slot of one look-up; dropped, the next one has it.
pub struct Slot {
    reads: Arc<Reads>,
    begun: Instant,
    _permit: OwnedSemaphorePermit,
}

/// Counts one that waits, as long as it does.
struct Waiting<'a>(&'a AtomicU64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Reads {
    /// With no look-up yet.
    pub fn new() -> Arc<Reads> {
        let zero = AtomicU64::default;
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        Arc::new(Reads { slots, waiting: zero(), done: zero(), refused: zero(), micros: zero() })
    }

    /// Waits for a slot for a request.
    ///
    /// # Errors
    /// That too many wait already.
    pub async fn slot(self: &Arc<Reads>) -> Result<Slot, Error> {
        if self.waiting.load(Ordering::Relaxed) >= WAITING_MAX {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Error::Busy);
        }
        self.slot_inside().await
    }

    /// Waits for a slot for what the server does by itself, however many wait.
    ///
    /// # Errors
    /// That the server ends.
    pub async fn slot_inside(self: &Arc<Reads>) -> Result<Slot, Error> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(&self.waiting);
        let permit = self.slots.clone().acquire_owned().await;
        drop(waiting);
        let permit = permit.map_err(|_| Error::Engine("the server ends".to_string()))?;
        Ok(Slot { reads: self.clone(), begun: Instant::now(), _permit: permit })
    }

    /// How many are done, wait, and were told to come back later.
    pub fn counts(&self) -> [u64; 3] {
        [&self.done, &self.waiting, &self.refused].map(|counter| counter.load(Ordering::Relaxed))
    }

    /// The lines of the metrics.
    pub fn metrics(&self) -> String {
        let [done, waiting, refused] = self.counts();
        let seconds = std::time::Duration::from_micros(self.micros.load(Ordering::Relaxed)).as_secs_f64();
        format!(
            "# TYPE bootserver_reads_total counter\nbootserver_reads_total{{answer=\"done\"}} {done}\n\
             bootserver_reads_total{{answer=\"shed\"}} {refused}\n\
             # TYPE bootserver_reads_waiting gauge\nbootserver_reads_waiting {waiting}\n\
             # TYPE bootserver_read_seconds summary\nbootserver_read_seconds_sum {seconds}\n\
             bootserver_read_seconds_count {done}\n"
        )
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let spent = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.reads.done.fetch_add(1, Ordering::Relaxed);
        self.reads.micros.fetch_add(spent, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn so_many_run_so_many_wait_and_the_others_are_told_to_come_back() {
        let reads = Reads::new();
        let mut running = Vec::new();
        for _ in 0..AT_ONCE {
            running.push(reads.slot().await.expect("a slot"));
        }
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..WAITING_MAX {
            let reads = reads.clone();
            waiting.spawn(async move { reads.slot().await.is_ok() });
        }
        while reads.waiting.load(Ordering::Relaxed) < WAITING_MAX {
            tokio::task::yield_now().await;
        }
        assert!(matches!(reads.slot().await, Err(Error::Busy)));
        assert!(reads.metrics().contains("bootserver_reads_waiting 200\n"), "{}", reads.metrics());
        // One that goes away gives up its place in the queue.
        waiting.abort_all();
        while waiting.join_next().await.is_some() {}
        assert!(reads.metrics().contains("bootserver_reads_waiting 0\n"), "{}", reads.metrics());
        running.clear();
        drop(reads.slot().await.expect("a slot"));
        let metrics = reads.metrics();
        assert!(metrics.contains("{answer=\"done\"} 3\n") && metrics.contains("{answer=\"shed\"} 1\n"), "{metrics}");
    }
}
