//! GRUB's `test` and `[`.

use super::shell::Shell;

/// Evaluates the arguments of `test` (without the closing bracket).
pub(super) fn evaluate(shell: &Shell<'_>, args: &[String]) -> bool {
    // Terms call themselves for `!` and parentheses, so their length bounds the depth.
    if args.len() > 128 {
        return false;
    }
    // `-o` binds weaker than `-a`; a side without operator is a conjunction of its terms.
    args.split(|a| a == "-o").any(|side| {
        side.split(|a| a == "-a")
            .all(|term| self::term(shell, term))
    })
}

fn term(shell: &Shell<'_>, args: &[String]) -> bool {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        [] => false,
        ["!", rest @ ..] => {
            let rest: Vec<String> = rest.iter().map(|s| (*s).to_owned()).collect();
            !term(shell, &rest)
        }
        ["(", .., ")"] => {
            let inner: Vec<String> = args[1..args.len() - 1]
                .iter()
                .map(|s| (*s).to_owned())
                .collect();
            evaluate(shell, &inner)
        }
        ["-n", value] => !value.is_empty(),
        ["-z", value] => value.is_empty(),
        ["-e", path] => shell.exists(path).is_some(),
        ["-d", path] => shell.exists(path) == Some(true),
        ["-f", path] => shell.exists(path) == Some(false),
        ["-s", path] => shell.read(path).is_some_and(|content| !content.is_empty()),
        [value] => !value.is_empty(),
        [a, "=" | "==", b] => a == b,
        [a, "!=", b] => a != b,
        [a, "<", b] => a < b,
        [a, ">", b] => a > b,
        [a, "<=", b] => a <= b,
        [a, ">=", b] => a >= b,
        [a, op, b] => match (a.parse::<i64>(), b.parse::<i64>()) {
            (Ok(a), Ok(b)) => match *op {
                "-eq" => a == b,
                "-ne" => a != b,
                "-lt" => a < b,
                "-le" => a <= b,
                "-gt" => a > b,
                "-ge" => a >= b,
                _ => false,
            },
            _ => false,
        },
        _ => false,
    }
}
