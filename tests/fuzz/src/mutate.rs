//! Inputs from inputs.

/// A generator whose numbers follow from its seed (xorshift64*).
#[derive(Clone, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Less than `limit`, which is not zero.
    pub fn below(&mut self, limit: usize) -> usize {
        ((self.draw() >> 33) % limit as u64) as usize
    }
}

/// Values at which decoders change their minds.
const TELLING: [u8; 12] = [
    0, 1, 2, 0x17, 0x18, 0x1b, 0x20, 0x5f, 0x7f, 0x80, 0x9f, 0xff,
];
/// Longest input made.
const LONGEST: usize = 64 * 1024;

/// A change of one of `inputs`, which are not empty. `seed` says which.
pub fn mutant(inputs: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let mut bytes = inputs[numbers.below(inputs.len())].clone();
    for _ in 0..=numbers.below(6) {
        let at = numbers.below(bytes.len() + 1);
        let length = 1 + numbers.below(16);
        let end = bytes.len().min(at + length);
        match numbers.below(8) {
            0 => flip(&mut bytes, at, &mut numbers),
            1 => set(&mut bytes, at, TELLING[numbers.below(TELLING.len())]),
            2 => set(&mut bytes, at, numbers.draw() as u8),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let new = (0..length).map(|_| numbers.draw() as u8);
                bytes.splice(at..at, new.collect::<Vec<_>>());
            }
            5 => {
                // A piece comes twice.
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            6 => {
                // A piece of another input.
                let other = &inputs[numbers.below(inputs.len())];
                let from = numbers.below(other.len() + 1);
                let to = other.len().min(from + 4 * length);
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            _ => bytes.truncate(at.max(bytes.len() / 2)),
        }
    }
    bytes.truncate(LONGEST);
    bytes
}

fn flip(bytes: &mut [u8], at: usize, numbers: &mut Numbers) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << numbers.below(8);
    }
}

fn set(bytes: &mut [u8], at: usize, to: u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = to;
    }
}
