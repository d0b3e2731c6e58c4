use super::*;
use crate::store::NEXT;
use std::sync::mpsc::{channel, Receiver, Sender};

/// A piece of work that tells what became of it.
struct Piece<F> {
    run: F,
    told: Sender<Result<(), Error>>,
}

impl<F: FnMut(&mut dyn Tx) -> Result<(), Error> + Send> Work for Piece<F> {
    fn run(&mut self, tx: &mut dyn Tx) -> Result<(), Error> {
        (self.run)(tx)
    }

    fn finish(self: Box<Self>, committed: Result<(), Error>) {
        self.told.send(committed).expect("somebody waits");
    }
}

/// A database in a directory of its own, which goes with it.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let dir = std::env::temp_dir().join(format!("bootserver-store-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("a directory");
        open(&dir.join("db"))
            .expect("a database")
            .execute_batch("CREATE TABLE t (id INTEGER, x TEXT)")
            .expect("a table");
        Place(dir)
    }

    fn start(&self) -> Sqlite {
        Sqlite::start(&self.0.join("db")).expect("an engine")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn give(
    engine: &Sqlite,
    run: impl FnMut(&mut dyn Tx) -> Result<(), Error> + Send + 'static,
) -> Result<Receiver<Result<(), Error>>, Error> {
    let (told, answer) = channel();
    engine.write(Box::new(Piece { run, told }))?;
    Ok(answer)
}

fn insert(id: i64, size: usize) -> impl FnMut(&mut dyn Tx) -> Result<(), Error> + Send + 'static {
    move |tx| tx.run("INSERT INTO t VALUES (?1, ?2)", crate::args![id, "x".repeat(size)]).map(drop)
}

fn ids(engine: &Sqlite) -> Vec<i64> {
    let mut found = Vec::new();
    let mut read = |tx: &mut dyn Tx| {
        found = tx.rows("SELECT id FROM t ORDER BY id", &[])?.iter().map(|row| row.int(0)).collect();
        Ok(())
    };
    engine.read(&mut read).expect("rows");
    found
}

#[test]
fn a_piece_that_errs_undoes_itself_and_none_of_its_group() {
    let place = Place::new("errs");
    let engine = place.start();
    let refuse = |tx: &mut dyn Tx| {
        tx.run("INSERT INTO t VALUES (9, '')", &[])?;
        super::super::refused("no")
    };
    let answers = [give(&engine, insert(1, 1)), give(&engine, refuse), give(&engine, insert(2, 1))];
    let ends: Vec<bool> =
        answers.map(|answer| answer.expect("room").recv().expect("an end").is_ok()).into_iter().collect();
    assert_eq!((ends, ids(&engine)), (vec![true, false, true], vec![1, 2]));
}

#[test]
fn a_piece_that_panics_is_an_error_and_the_writer_goes_on() {
    let place = Place::new("panics");
    let engine = place.start();
    let fault = |_: &mut dyn Tx| -> Result<(), Error> { panic!("a fault") };
    assert!(give(&engine, fault).expect("room").recv().expect("an end").is_err());
    assert!(give(&engine, insert(1, 1)).expect("room").recv().expect("an end").is_ok());
    assert_eq!(ids(&engine), [1]);
}

/// What a full disk does, with a database that may not grow: whoever was told that it is stored finds it there, and nobody
/// else does.
#[test]
fn when_it_is_full_nothing_is_told_that_is_not_so() {
    let place = Place::new("full");
    let engine = place.start();
    let limit = |tx: &mut dyn Tx| tx.each("PRAGMA max_page_count = 30", &[], &mut |_| Ok(NEXT));
    give(&engine, limit).expect("room").recv().expect("an end").expect("a limit");
    give(&engine, insert(-1, 100)).expect("room").recv().expect("an end").expect("it fits");
    let sizes = [100, 100, 60_000, 100, 300_000, 100, 50_000, 100, 100, 400_000, 100];
    let answers: Vec<_> = (0..110).map(|n| (n, give(&engine, insert(n, sizes[n as usize % 11])))).collect();
    let mut stored = vec![-1];
    for (n, answer) in answers {
        if answer.expect("room").recv().expect("an end").is_ok() {
            stored.push(n);
        }
    }
    assert_eq!(ids(&engine), stored);
    assert!(!stored.contains(&4), "the limit is reached");
    assert!(give(&engine, insert(200, 100)).expect("room").recv().expect("an end").is_ok(), "what fits is stored");
}

#[test]
fn the_queue_has_an_end() {
    let place = Place::new("queue");
    let engine = place.start();
    let (go, wait) = channel::<()>();
    let (begun, started) = channel::<()>();
    let hold = move |_: &mut dyn Tx| {
        begun.send(()).expect("somebody waits");
        wait.recv().map_err(|error| Error::Engine(error.to_string()))
    };
    let first = give(&engine, hold).expect("room");
    started.recv().expect("it runs");
    let mut waiting = vec![first];
    let full = loop {
        match give(&engine, insert(1, 1)) {
            Ok(answer) => waiting.push(answer),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::Busy), "{full:?}");
    assert_eq!(waiting.len(), QUEUE + 1);
    go.send(()).expect("it waits");
    assert!(waiting.into_iter().all(|answer| answer.recv().expect("an end").is_ok()));
    assert_eq!(ids(&engine).len(), QUEUE);
}
