//! Shamir's secret sharing over GF(2⁸), byte by byte: any `k` shares give the secret, fewer
//! give nothing of it (A. Shamir, "How to share a secret", CACM 22, 1979).
//!
//! The field is that of AES (x⁸ + x⁴ + x³ + x + 1). Products are made without tables and without
//! branches on secret bytes, so that neither the time nor the cache tells of them. Written here
//! since it is small: what is kept elsewhere looks products up in tables indexed by the secret.

use zeroize::Zeroizing;

use crate::id::random_bytes;

/// Bytes of a secret and of each of its shares.
pub const LENGTH: usize = 32;

/// One value of the polynomials: what share number `x` holds. `x` is never 0.
pub type Point = (u8, Zeroizing<[u8; LENGTH]>);

/// Shares 1 to `count` of `secret`, of which `threshold` are enough.
///
/// # Panics
/// When `threshold` is 0 or larger than `count`, which callers have refused.
pub fn split(secret: &[u8; LENGTH], threshold: u8, count: u8) -> Vec<Point> {
    assert!((1..=count).contains(&threshold), "{threshold} of {count}");
    let higher: Vec<Zeroizing<[u8; LENGTH]>> = (1..threshold)
        .map(|_| Zeroizing::new(random_bytes()))
        .collect();
    (1..=count)
        .map(|x| {
            // Horner: from the highest coefficient down to the secret.
            let mut value = Zeroizing::new([0; LENGTH]);
            let coefficients = higher.iter().map(|c| &**c).rev();
            for coefficient in coefficients.chain(std::iter::once(secret)) {
                for (byte, c) in value.iter_mut().zip(coefficient) {
                    *byte = times(*byte, x) ^ c;
                }
            }
            (x, value)
        })
        .collect()
}

/// The secret that these shares, with different numbers, give: the right one when there are
/// enough of them and all belong together.
pub fn combine(points: &[Point]) -> Zeroizing<[u8; LENGTH]> {
    let mut secret = Zeroizing::new([0; LENGTH]);
    for (x, value) in points {
        // Lagrange's basis at 0: the product of xj / (xj - x).
        let mut factor = 1;
        for (other, _) in points.iter().filter(|(other, _)| other != x) {
            factor = times(factor, times(*other, inverse(*other ^ *x)));
        }
        for (byte, v) in secret.iter_mut().zip(value.iter()) {
            *byte ^= times(*v, factor);
        }
    }
    secret
}

/// The product in the field, in constant time.
fn times(a: u8, b: u8) -> u8 {
    let (mut a, mut product) = (a, 0);
    for bit in 0..8 {
        product ^= a & (b >> bit & 1).wrapping_neg();
        a = a << 1 ^ (0x1b & (a >> 7).wrapping_neg());
    }
    product
}

/// The inverse, a²⁵⁴; 0 for 0.
fn inverse(a: u8) -> u8 {
    let (mut power, mut product) = (a, 1);
    for _ in 0..7 {
        power = times(power, power);
        product = times(product, power);
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_field_is_a_field() {
        for a in 1..=255 {
            assert_eq!(times(a, inverse(a)), 1);
            assert_eq!(times(a, 1), a);
            for b in 1..=255 {
                assert_eq!(times(a, b), times(b, a));
                assert_ne!(times(a, b), 0);
            }
        }
        // FIPS 197, section 4.2: {57} · {83} = {c1}.
        assert_eq!(times(0x57, 0x83), 0xc1);
    }

    proptest! {
        /// Guards: any k shares give the secret, in whatever order.
        #[test]
        fn enough_shares_give_the_secret(
            secret in any::<[u8; LENGTH]>(), (k, n) in (1u8..9).prop_flat_map(|n| (1..=n, Just(n))),
            order in any::<u64>(),
        ) {
            let mut shares = split(&secret, k, n);
            let len = shares.len() as u64;
            for i in 0..len { shares.swap(i as usize, (order.rotate_left(i as u32) % len) as usize); }
            prop_assert_eq!(*combine(&shares[..usize::from(k)]), secret);
            prop_assert_eq!(*combine(&shares), secret);
        }

        /// Guards: k - 1 shares fit every secret equally, so they tell nothing.
        #[test]
        fn too_few_shares_fit_any_secret(secret in any::<[u8; LENGTH]>(), guess in any::<u8>()) {
            let shares = split(&secret, 3, 5);
            // For any guessed first byte there is a third share that would confirm it.
            let confirming = (0..=255u8).filter(|byte| {
                let mut third = shares[2].1.clone();
                third[0] = *byte;
                let points = [shares[0].clone(), shares[1].clone(), (3, third)];
                combine(&points)[0] == guess
            });
            prop_assert_eq!(confirming.count(), 1);
        }
    }
}
