//! The running server: doors, the transactions behind them, and what happens by itself.

pub mod accounts;
pub mod agent;
pub mod aging;
pub mod api;
pub mod clock;
pub mod door;
pub mod front;
pub mod give;
pub mod lookup;
pub mod manage;
pub mod packages;
pub mod pages;
pub mod parts;
pub mod patient;
pub mod people;
pub mod places;
pub mod post;
pub mod reads;
pub mod report;
pub mod results;
pub mod run;
pub mod sweep;
pub mod time;
pub mod tls;
pub mod upload;
pub mod webhooks;
pub mod zone;

use crate::model::gaps::{self, Gap, Turn};
use crate::store::roster::{self, AgentKey};
use crate::store::{Engine, Error, Tx, Work};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// New hosts that may ask to be taken in one second.
const ENROLL_A_SECOND: i64 = 20;

/// What every request shares.
pub struct Shared {
    /// Where everything is kept.
    pub dir: PathBuf,
    /// The database.
    pub engine: Box<dyn Engine>,
    /// Where packages are, as hosts should see it.
    pub public_url: Option<String>,
    /// Whether hosts without a key are taken.
    pub allow_unsigned: bool,
    /// Times that do not count.
    gaps: Mutex<Arc<Vec<Gap>>>,
    /// What the clock showed when it was last looked at, and when that was.
    looked: Mutex<(i64, Instant)>,
    /// How the pages' door is set up.
    pub front: front::Front,
    /// Where it listens, once it does: hosts first, the pages last.
    pub doors: OnceLock<Vec<SocketAddr>>,
    /// What logins share.
    pub logins: people::Logins,
    /// When it started.
    pub started: i64,
    /// The agents of all hosts, as they were counted a moment ago.
    agents: Mutex<Option<Counted>>,
    /// What is counted for the metrics.
    pub counts: Counts,
    /// Jobs that are being prepared.
    pub preparing: parts::Preparing,
    /// Look-ups that may take long.
    pub reads: Arc<reads::Reads>,
    enrolled: Mutex<(i64, i64)>,
    /// The last time at which an engine error was told, so that a full disk fills no log.
    complained: AtomicI64,
}

/// What was counted, when, and how long that took.
type Counted = (Instant, Duration, Arc<BTreeMap<AgentKey, i64>>);

/// Counters for `/metrics`, by answer.
#[derive(Default)]
pub struct Counts {
    pub taken: AtomicU64,
    pub turned_away: AtomicU64,
    pub unwanted: AtomicU64,
    pub forbidden: AtomicU64,
    pub bad: AtomicU64,
    pub shed: AtomicU64,
    pub failed: AtomicU64,
    pub results: AtomicU64,
    pub logins: AtomicU64,
    pub logins_refused: AtomicU64,
    pub logins_limited: AtomicU64,
}

impl Shared {
    /// Everything that requests share.
    pub fn new(dir: PathBuf, engine: Box<dyn Engine>, gaps: Vec<Gap>) -> Shared {
        Shared {
            dir,
            engine,
            public_url: None,
            allow_unsigned: false,
            gaps: Mutex::new(Arc::new(gaps)),
            looked: Mutex::new((clock::now(), Instant::now())),
            front: front::Front::default(),
            doors: OnceLock::new(),
            logins: people::Logins::default(),
            started: clock::now(),
            agents: Mutex::default(),
            counts: Counts::default(),
            preparing: parts::Preparing::default(),
            reads: reads::Reads::new(),
            enrolled: Mutex::new((0, 0)),
            complained: AtomicI64::new(0),
        }
    }

    /// Times that do not count: while the server was down, or its clock was set forward.
    pub fn gaps(&self) -> Arc<Vec<Gap>> {
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the clock showed when it was last looked at, and what it did since. While it is not steady, nobody may be judged
    /// by it: the next look moves what hangs on it.
    pub fn turn(&self, now: i64) -> (i64, Turn) {
        let (last, at) = *self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        (last, gaps::turn(last, now, i64::try_from(at.elapsed().as_secs()).unwrap_or(i64::MAX)))
    }

    /// The clock was looked at, and what it did is noted.
    pub fn looked(&self, now: i64) {
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = (now, Instant::now());
    }

    /// Puts others in their place.
    pub fn set_gaps(&self, gaps: Vec<Gap>) {
        *self.gaps.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(gaps);
    }

    /// Whether one more unknown host may be taken in this second.
    pub fn may_enroll(&self, now: i64) -> bool {
        let mut enrolled = self.enrolled.lock().unwrap_or_else(PoisonError::into_inner);
        if enrolled.0 != now {
            *enrolled = (now, 0);
        }
        enrolled.1 += 1;
        enrolled.1 <= ENROLL_A_SECOND
    }

    /// Changes something; returns when it is durable.
    ///
    /// # Errors
    /// What the engine or the work says; then nothing of it was kept.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Tx) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let piece: Piece<T> = Piece { work: Some(Box::new(work)), out: None, reply };
        self.engine.write(Box::new(piece))?;
        let gone = || Err(Error::Engine("the writer has ended".to_string()));
        answer.await.unwrap_or_else(|_| gone())
    }

    /// Looks something up for a request, away from the threads that answer.
    ///
    /// # Errors
    /// `Busy` when too many wait already; what the engine or the work says.
    pub async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut dyn Tx) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let slot = self.reads.slot().await?;
        self.read_in(slot, work).await
    }

    /// The same for what the server does by itself.
    ///
    /// # Errors
    /// What the engine or the work says.
    pub async fn read_inside<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut dyn Tx) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let slot = self.reads.slot_inside().await?;
        self.read_in(slot, work).await
    }

    async fn read_in<T: Send + 'static>(
        self: &Arc<Self>,
        slot: reads::Slot,
        work: impl FnOnce(&mut dyn Tx) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let shared = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            shared.read_with(work, |engine, work| engine.read_long(work))
        });
        task.await.unwrap_or_else(|_| Err(Error::Engine("a fault of the server, see its log".to_string())))
    }

    /// Looks up what an index finds at once. It waits for no list: hosts, sessions and tokens are found so.
    ///
    /// # Errors
    /// What the engine or the work says.
    pub fn read_now<T>(&self, work: impl FnOnce(&mut dyn Tx) -> Result<T, Error>) -> Result<T, Error> {
        self.read_with(work, |engine, work| engine.read(work))
    }

    fn read_with<T>(
        &self,
        work: impl FnOnce(&mut dyn Tx) -> Result<T, Error>,
        read: impl FnOnce(&dyn Engine, &mut dyn FnMut(&mut dyn Tx) -> Result<(), Error>) -> Result<(), Error>,
    ) -> Result<T, Error> {
        let (mut work, mut out) = (Some(work), None);
        read(self.engine.as_ref(), &mut |tx| {
            if let Some(work) = work.take() {
                out = Some(work(tx)?);
            }
            Ok(())
        })?;
        out.ok_or_else(|| Error::Engine("nothing was read".to_string()))
    }

    /// The agents of all hosts. Counting looks at every host, so that a count is used again for a while.
    ///
    /// # Errors
    /// What the engine says.
    pub fn agents_of_fleet(&self, tx: &mut dyn Tx) -> Result<Arc<BTreeMap<AgentKey, i64>>, Error> {
        let mut counted = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, took, agents)) = counted.as_ref() {
            if at.elapsed() < *took * 20 {
                return Ok(agents.clone());
            }
        }
        let begun = Instant::now();
        let agents = Arc::new(roster::agents(tx)?);
        *counted = Some((Instant::now(), begun.elapsed(), agents.clone()));
        Ok(agents)
    }

    /// What a host's `svrlist` has to name.
    pub fn hosts_come_to(&self) -> String {
        match (&self.public_url, self.doors.get().and_then(|doors| doors.first())) {
            (Some(url), _) => url.clone(),
            (None, Some(at)) if !at.ip().is_unspecified() => at.to_string(),
            (None, at) => format!("SERVER:{}", at.map_or(8080, SocketAddr::port)),
        }
    }

    /// Tells the operator of an engine error, once in ten seconds.
    pub fn complain(&self, error: &Error) {
        let now = clock::now();
        let last = self.complained.swap(now, Ordering::Relaxed);
        // One in the future was told before the clock was set back.
        if last > now || last + 10 <= now {
            clock::say(&format!("cannot store: {error}; hosts are told to come back later"));
        }
    }
}

/// A closure as the engine takes it.
struct Piece<T> {
    #[expect(clippy::type_complexity, reason = "it is named here once")]
    work: Option<Box<dyn FnOnce(&mut dyn Tx) -> Result<T, Error> + Send>>,
    out: Option<T>,
    reply: oneshot::Sender<Result<T, Error>>,
}

impl<T: Send> Work for Piece<T> {
    fn run(&mut self, tx: &mut dyn Tx) -> Result<(), Error> {
        if let Some(work) = self.work.take() {
            self.out = Some(work(tx)?);
        }
        Ok(())
    }

    fn finish(self: Box<Self>, committed: Result<(), Error>) {
        let lost = || Error::Engine("nothing was done".to_string());
        let out = self.out;
        // Whoever asked may have gone away.
        let _ = self.reply.send(committed.and_then(|()| out.ok_or_else(lost)));
    }
}
