//! Mutations of seeds, the same in every run.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What trips readers of any kind.
const TOKENS: [&[u8]; 40] = [
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n",
    b"\x1b[31m",
    b"'",
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"-",
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!binary ",
    b"|\n",
    b"%00",
    b"%",
    b"-1",
    b"0",
    b"18446744073709551616",
    b"9223372036854775807",
    b"1e999",
    b"NaN",
    b"null",
    b"true",
    b"$$",
    b"--",
    b"/*",
    b"*/",
    b";",
    b"\xc3\xa9",
    b"\xe2\x80\xae",
    b"\xf0\x9f\x90\x98",
    b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
];

pub struct Mutator<'a> {
    chance: StdRng,
    seeds: &'a [Vec<u8>],
}

impl<'a> Mutator<'a> {
    pub fn new(target: &str, seeds: &'a [Vec<u8>]) -> Self {
        let seed = target
            .bytes()
            .fold(0, |sum: u64, byte| sum.wrapping_mul(31) + u64::from(byte));
        Self {
            chance: StdRng::seed_from_u64(seed),
            seeds,
        }
    }

    pub fn next(&mut self) -> Vec<u8> {
        let mut input = self.seed().to_vec();
        for _ in 0..self.chance.random_range(1..4) {
            self.mutate(&mut input);
        }
        input
    }

    fn seed(&mut self) -> &'a [u8] {
        &self.seeds[self.chance.random_range(0..self.seeds.len())]
    }

    fn place(&mut self, input: &[u8]) -> usize {
        self.chance.random_range(0..=input.len())
    }

    fn range(&mut self, input: &[u8]) -> std::ops::Range<usize> {
        let (one, length) = (self.place(input), self.chance.random_range(1..64));
        one..(one + length).min(input.len())
    }

    fn mutate(&mut self, input: &mut Vec<u8>) {
        let at = self.place(input);
        match self.chance.random_range(0..8) {
            0 if at < input.len() => input[at] ^= 1 << self.chance.random_range(0..8),
            1 => drop(input.drain(self.range(input))),
            2 => {
                let piece = input[self.range(input)].to_vec();
                input.splice(at..at, piece);
            }
            3 => {
                // Deep or wide, rather than twice.
                let piece = input[self.range(input)].to_vec();
                let times = self.chance.random_range(2..300);
                input.splice(at..at, piece.repeat(times));
            }
            4 => input.truncate(at),
            5 => {
                let other = self.seed();
                let piece = other[self.range(other)].to_vec();
                let range = self.range(input);
                input.splice(range, piece);
            }
            6 => self.number(input, at),
            _ => {
                let token = TOKENS[self.chance.random_range(0..TOKENS.len())];
                input.splice(at..at, token.iter().copied());
            }
        }
    }

    /// Another number in place of the next one.
    fn number(&mut self, input: &mut Vec<u8>, at: usize) {
        let Some(start) = input[at..].iter().position(u8::is_ascii_digit) else {
            return;
        };
        let start = at + start;
        let digits = input[start..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let number = match self.chance.random_range(0..5) {
            0 => "0".to_owned(),
            1 => i64::MAX.to_string(),
            2 => "281474976710656".to_owned(),
            3 => u64::MAX.to_string(),
            _ => "9".repeat(400),
        };
        input.splice(start..start + digits, number.into_bytes());
    }
}
