//! Random numbers for tests, the same for the same seed.

use bootagent::model::schedule;

/// Pseudo-random numbers: those of the daemon's own generator, with what tests ask of it.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        let mut generator = schedule::Random(self.0);
        let number = generator.number();
        self.0 = generator.0;
        number
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// True so many times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }
}
