//! `grubenv`: variables that survive a reboot, in a block of 1024 bytes.

/// Parses an environment block. The format is `key=value` lines after a comment, with a
/// backslash before characters that would end a value, and `#` as filling.
pub(super) fn parse(block: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(block);
    let mut variables = Vec::new();
    let mut line = String::new();
    let mut escaped = false;
    for c in text.chars() {
        match c {
            _ if escaped => {
                line.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '\n' => push(&mut variables, &std::mem::take(&mut line)),
            c => line.push(c),
        }
    }
    push(&mut variables, &line);
    variables
}

fn push(variables: &mut Vec<(String, String)>, line: &str) {
    if line.starts_with('#') {
        return;
    }
    if let Some((key, value)) = line.split_once('=') {
        variables.push((key.to_owned(), value.to_owned()));
    }
}
