//! Choices of the generator.

use crate::harness::Chance;

pub trait Dice {
    fn index(&mut self, bound: usize) -> usize;
    fn percent(&mut self, share: u64) -> bool;
    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T;
    fn shuffle<T>(&mut self, items: &mut [T]);
}

impl Dice for Chance {
    fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap()
    }

    fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.index(from.len())]
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.index(at + 1));
        }
    }
}
