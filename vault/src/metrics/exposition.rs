//! Families of numbers, and the text that Prometheus reads.

use std::fmt::Write;

use serde::Serialize;

/// A kind of number with its values.
#[derive(Clone, Debug, Serialize)]
pub struct Family {
    /// As Prometheus knows it.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// Values, by label.
    pub values: Vec<Value>,
}

/// A number.
#[derive(Clone, Debug, Serialize)]
pub struct Value {
    /// Names and values of labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<(&'static str, String)>,
    /// How many.
    pub value: f64,
}

impl Value {
    /// Without labels.
    pub fn plain(value: u64) -> Vec<Self> {
        vec![Self {
            labels: Vec::new(),
            value: value as f64,
        }]
    }

    /// With one label.
    pub fn labelled(name: &'static str, label: impl Into<String>, value: u64) -> Self {
        Self {
            labels: vec![(name, label.into())],
            value: value as f64,
        }
    }
}

/// As Prometheus reads it: its text format, version 0.0.4.
pub fn text(families: &[Family]) -> String {
    let mut text = String::new();
    for family in families {
        let (name, kind) = (family.name, family.kind);
        // Writing to memory does not fail.
        let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}", family.help);
        for value in &family.values {
            text.push_str(name);
            let labels: Vec<String> = value
                .labels
                .iter()
                .map(|(label, is)| format!("{label}=\"{}\"", escape(is)))
                .collect();
            if !labels.is_empty() {
                let _ = write!(text, "{{{}}}", labels.join(","));
            }
            let _ = writeln!(text, " {}", value.value);
        }
    }
    text
}

fn escape(label: &str) -> String {
    label
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the scraper: one bad line and Prometheus drops all of them.
    #[test]
    fn labels_are_escaped() {
        let odd = Family {
            name: "n",
            help: "h",
            kind: "gauge",
            values: vec![Value::labelled("l", "a\"\\\nb", 1)],
        };
        assert!(text(&[odd]).ends_with("n{l=\"a\\\"\\\\\\nb\"} 1\n"));
    }
}
