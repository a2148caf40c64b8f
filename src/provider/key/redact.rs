//! Takes keys out of what upstreams say: some repeat the key in their errors.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{GeneralPurpose, general_purpose::NO_PAD};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret as _, SecretString};

/// What takes the place of a key.
pub const REDACTED: &str = "[redacted]";

/// A key of fewer bytes is sought as it is alone: its other forms would match by chance.
const FORMS_SIZE_MIN: usize = 8;

/// How much of a key's beginning is taken out at the end of a text that was cut in the middle of
/// it. Shorter beginnings, like `sk-`, are known to everybody.
const CUT_SIZE_MIN: usize = 6;

/// Knows a provider's keys, and replaces them in texts.
///
/// Found are the key itself, also behind `Bearer` or any other word; its base64 at each alignment,
/// so within `Basic` credentials too; its percent-encoded and its JSON form; and a beginning of one
/// of these at the end of a text. Not found is a key in pieces, or in another code.
pub struct Redactor {
    /// The longest first, so that what contains another is replaced as a whole.
    forms: Vec<Zeroizing<String>>,
}

impl Redactor {
    /// A redactor of these keys. Empty ones are passed over.
    pub fn new<'k>(keys: impl IntoIterator<Item = &'k SecretString>) -> Self {
        let mut forms: Vec<Zeroizing<String>> = Vec::new();
        for key in keys {
            let key = key.expose_secret();
            forms.push(Zeroizing::new(key.to_owned()));
            if key.len() >= FORMS_SIZE_MIN {
                forms.extend(other_forms(key).map(Zeroizing::new));
            }
        }
        forms.retain(|form| !form.is_empty());
        forms.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        forms.dedup();
        Self { forms }
    }

    /// The text without the keys.
    #[must_use]
    pub fn redact<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut text = Cow::Borrowed(text);
        for form in &self.forms {
            if text.contains(form.as_str()) {
                text = Cow::Owned(text.replace(form.as_str(), REDACTED));
            }
        }
        if let Some(start) = self.cut_at(&text) {
            text = Cow::Owned(format!("{}{REDACTED}", &text[..start]));
        }
        text
    }

    /// Where the text's end is the beginning of a form.
    fn cut_at(&self, text: &str) -> Option<usize> {
        let longest = self.forms.first()?.len();
        let ends = text.char_indices().rev().map(|(start, _)| start);
        let near = ends.take_while(|start| text.len() - start < longest);
        // The furthest from the end, which is the most of a key.
        near.filter(|start| {
            let end = &text[*start..];
            end.len() >= CUT_SIZE_MIN && self.forms.iter().any(|form| form.starts_with(end))
        })
        .last()
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Redactor({} forms)", self.forms.len())
    }
}

fn other_forms(key: &str) -> impl Iterator<Item = String> {
    let alphabets = [&STANDARD, &URL_SAFE];
    let in_base64 = alphabets
        .into_iter()
        .flat_map(move |alphabet| (0..3).map(move |before| base64_within(key, before, alphabet)));
    // As a string of JSON, with and without the slash that PHP escapes.
    let quoted = serde_json::Value::from(key).to_string();
    let json = quoted.trim_matches('"').to_owned();
    let slashes = json.replace('/', "\\/");
    let upper = percent_encoded(key);
    // Only the escapes have letters of either case.
    let lower = percent_encoded_lower(key);
    in_base64.chain([json, slashes, upper, lower])
}

/// The characters that every base64 text has which encodes the key after `before` bytes, modulo 3,
/// of anything: those at the ends, which depend on the neighbours, left out.
fn base64_within(key: &str, before: usize, alphabet: &Alphabet) -> String {
    let mut bytes = Zeroizing::new(vec![0; before]);
    bytes.extend_from_slice(key.as_bytes());
    // The first character that the key decides alone, and the last one.
    let start = (before * 8).div_ceil(6);
    let end = bytes.len() * 8 / 6;
    let text = Zeroizing::new(GeneralPurpose::new(alphabet, NO_PAD).encode(&*bytes));
    text[start..end].to_owned()
}

/// RFC 3986 §2.1, all but unreserved characters.
fn percent_encoded(key: &str) -> String {
    percent(key, |byte| format!("%{byte:02X}"))
}

fn percent_encoded_lower(key: &str) -> String {
    percent(key, |byte| format!("%{byte:02x}"))
}

fn percent(key: &str, escape: impl Fn(u8) -> String) -> String {
    key.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => escape(other),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose;

    use super::*;

    const KEY: &str = "sk-proj/Ab+c=d\"e9_planted";

    fn redacted(text: &str) -> String {
        Redactor::new(&[SecretString::from(KEY)]).redact(text).into_owned()
    }

    #[test]
    fn a_key_is_replaced_wherever_it_is() {
        assert_eq!(
            redacted(&format!("bad key {KEY}, yes {KEY}!")),
            "bad key [redacted], yes [redacted]!"
        );
        assert_eq!(
            redacted(&format!("Authorization: Bearer {KEY}")),
            "Authorization: Bearer [redacted]"
        );
        assert_eq!(redacted("nothing here"), "nothing here");
        let longer = Redactor::new(&[SecretString::from("abc"), SecretString::from("abcdef")]);
        assert_eq!(longer.redact("xabcdefx"), "x[redacted]x");
    }

    #[test]
    fn its_other_forms_are_replaced_too() {
        let encoded = "sk-proj%2FAb%2Bc%3Dd%22e9_planted";
        assert_eq!(redacted(&format!("?key={encoded}&x")), "?key=[redacted]&x");
        assert_eq!(
            redacted(&encoded.replace("%2F", "%2f").replace("%2B", "%2b").replace("%3D", "%3d")),
            "[redacted]"
        );
        let json = serde_json::json!({ "error": KEY }).to_string();
        assert_eq!(redacted(&json), r#"{"error":"[redacted]"}"#);
        assert_eq!(redacted(&json.replace('/', "\\/")), r#"{"error":"[redacted]"}"#);
    }

    #[test]
    fn basic_credentials_lose_their_key_whoever_the_user_is() {
        for engine in [&general_purpose::STANDARD, &general_purpose::URL_SAFE] {
            for user in ["", "a:", "ab:", "abc:", "somebody:"] {
                for after in ["", ":", ":x"] {
                    let text = engine.encode(format!("{user}{KEY}{after}"));
                    let redacted = redacted(&format!("Basic {text}"));
                    assert!(redacted.contains(REDACTED), "{user} {after}");
                    // At most the characters at both ends are left, which hold four bits of it each.
                    let before = user.len() * 8 / 6 + 1;
                    let left = redacted.trim_start_matches("Basic ").replace(REDACTED, "");
                    assert!(left.len() <= before + 2 + after.len() * 8 / 6 + 4, "{redacted}");
                }
            }
        }
    }

    #[test]
    fn a_text_that_was_cut_within_a_key_does_not_show_its_beginning() {
        assert_eq!(redacted(&format!("bad key {}", &KEY[..12])), "bad key [redacted]");
        assert_eq!(redacted("bad key sk-p"), "bad key sk-p");
        assert_eq!(redacted(&format!("{}é", &KEY[..12])), format!("{}é", &KEY[..12]));
    }

    #[test]
    fn short_and_empty_keys_do_no_harm() {
        let short = Redactor::new(&[SecretString::from("lm"), SecretString::from("")]);
        assert_eq!(short.redact("the key lm is wrong"), "the key [redacted] is wrong");
        assert_eq!(Redactor::new([]).redact("text"), "text");
    }

    #[test]
    fn debug_shows_no_key() {
        let redactor = Redactor::new(&[SecretString::from(KEY)]);
        assert!(!format!("{redactor:?}").contains("planted"));
    }
}
