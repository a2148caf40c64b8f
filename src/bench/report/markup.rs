//! Text that goes into a page.

use std::fmt::{self, Write as _};

/// Text whose special characters are written as entities: fit for content and for attributes.
pub(super) struct Escaped<'t>(pub(super) &'t str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_meaning_in_markup_is_written_as_an_entity() {
        assert_eq!(Escaped("a<b>&\"c\"'").to_string(), "a&lt;b&gt;&amp;&quot;c&quot;&#39;");
        assert_eq!(Escaped("1 KiB · µs").to_string(), "1 KiB · µs");
    }
}
