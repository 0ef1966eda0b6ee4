//! The order of kernel versions: as rpm compares them, which also suits Debian's names.

use std::cmp::Ordering;

/// Compares two versions part by part: numbers by value, words by letters, numbers above words,
/// `~` below everything.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        a = a.trim_start_matches(|c: char| !c.is_ascii_alphanumeric() && c != '~');
        b = b.trim_start_matches(|c: char| !c.is_ascii_alphanumeric() && c != '~');
        match (a.strip_prefix('~'), b.strip_prefix('~')) {
            (Some(x), Some(y)) => {
                (a, b) = (x, y);
                continue;
            }
            (Some(_), None) => return Ordering::Less,
            (None, Some(_)) => return Ordering::Greater,
            (None, None) => {}
        }
        if a.is_empty() || b.is_empty() {
            return a.len().cmp(&b.len());
        }
        let digits = a.starts_with(|c: char| c.is_ascii_digit());
        if digits != b.starts_with(|c: char| c.is_ascii_digit()) {
            return if digits {
                Ordering::Greater
            } else {
                Ordering::Less
            };
        }
        let same = |c: char| {
            if digits {
                c.is_ascii_digit()
            } else {
                c.is_ascii_alphabetic()
            }
        };
        let (x, rest_a) = a.split_at(a.find(|c| !same(c)).unwrap_or(a.len()));
        let (y, rest_b) = b.split_at(b.find(|c| !same(c)).unwrap_or(b.len()));
        let order = if digits {
            let (x, y) = (x.trim_start_matches('0'), y.trim_start_matches('0'));
            x.len().cmp(&y.len()).then_with(|| x.cmp(y))
        } else {
            x.cmp(y)
        };
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
}

/// Major and minor number of a kernel release such as `5.14.0-427.el9.x86_64`.
pub fn major_minor(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_kernels_sort_above_older_ones() {
        let ascending = [
            "4.18.0-80.el8.x86_64",
            "4.18.0-477.10.1.el8_8.x86_64",
            "5.10.0-9-amd64",
            "5.10.0-28-amd64",
            "6.1.0-9-cloud-amd64",
            "6.1.0-18-cloud-amd64",
        ];
        for pair in ascending.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(compare(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
        }
        assert_eq!(compare("6.1~rc1", "6.1"), Ordering::Less);
        assert_eq!(compare("6.01", "6.1"), Ordering::Equal);
    }
}
