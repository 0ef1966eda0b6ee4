//! HTML that cannot be broken by what is put into it.
//!
//! Markup comes only from literals of this program (`&'static str`), and everything else only
//! through [`Markup::text`], which escapes it. So a guest's console, a page's body or a server's
//! name can never become a tag, an attribute or a script.

use std::fmt::Write;

/// A document under construction.
#[derive(Debug, Default)]
pub(super) struct Markup {
    html: String,
}

impl Markup {
    /// Adds markup of this program's own.
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.html.push_str(markup);
        self
    }

    /// Adds text from anywhere, for element content or a quoted attribute.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        for c in text.chars() {
            match c {
                '&' => self.html.push_str("&amp;"),
                '<' => self.html.push_str("&lt;"),
                '>' => self.html.push_str("&gt;"),
                '"' => self.html.push_str("&quot;"),
                '\'' => self.html.push_str("&#39;"),
                '\n' | '\t' => self.html.push(c),
                c if misleads(c) => self.html.push('\u{fffd}'),
                c => self.html.push(c),
            }
        }
        self
    }

    /// Adds a share of 0 to 1 as a percentage.
    pub(super) fn percent(&mut self, share: f64) -> &mut Self {
        let percent = if share.is_finite() {
            share.clamp(0.0, 1.0) * 100.0
        } else {
            0.0
        };
        // Writing to a string cannot fail.
        let _ = write!(self.html, "{percent:.2}%");
        self
    }

    /// `markup` with one hole that `text` fills: `.element("<td>", text, "</td>")`.
    pub(super) fn element(
        &mut self,
        open: &'static str,
        text: &str,
        close: &'static str,
    ) -> &mut Self {
        self.raw(open).text(text).raw(close)
    }

    /// The document.
    pub(super) fn finish(self) -> String {
        self.html
    }
}

/// Control characters, which HTML does not allow, and those that reorder or hide text around
/// them (Unicode bidirectional formatting, zero width).
fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
        || matches!(c, '\u{fdd0}'..='\u{fdef}')
        || u32::from(c) & 0xfffe == 0xfffe
}
