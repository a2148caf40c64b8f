//! What the model thought before it called a tool, which the vendor wants back unchanged.
//!
//! Our keepsake of a call has room for one thought and its signature. That is the usual case. What
//! is more (several thoughts, or one that the vendor has encrypted) goes into the signature as JSON:
//! a signature is base64 and never begins with `[`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::dialect::answer::Keepsake;
use crate::dialect::failure::Failure;

/// Thoughts before one call.
const THOUGHTS_COUNT_MAX: usize = 256;
/// Bytes of all signatures and encrypted thoughts of one answer. Seen so far: less than 2 KiB.
const SIGNATURES_SIZE_MAX: usize = 4 << 20;

/// The thoughts since the last call.
#[derive(Debug, Default)]
pub(super) struct Thoughts {
    blocks: Vec<Thought>,
    signatures_size: usize,
}

/// One block, written as the vendor writes it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Thought {
    Thinking { thinking: String, signature: String },
    RedactedThinking { data: String },
}

impl Thoughts {
    /// A new thought begins.
    pub(super) fn begin(&mut self) -> Result<(), Failure> {
        self.push(Thought::Thinking { thinking: String::new(), signature: String::new() })
    }

    /// The next piece of the thought. (An answer bounds what it consists of.)
    pub(super) fn think(&mut self, piece: &str) {
        if let Some(Thought::Thinking { thinking, .. }) = self.blocks.last_mut() {
            thinking.push_str(piece);
        }
    }

    /// The next piece of the thought's signature.
    pub(super) fn sign(&mut self, piece: &str) -> Result<(), Failure> {
        self.grow(piece)?;
        if let Some(Thought::Thinking { signature, .. }) = self.blocks.last_mut() {
            signature.push_str(piece);
        }
        Ok(())
    }

    /// A thought that only the vendor can read.
    pub(super) fn redacted(&mut self, data: &str) -> Result<(), Failure> {
        self.grow(data)?;
        self.push(Thought::RedactedThinking { data: data.to_owned() })
    }

    /// What is to be kept for the call that begins now.
    pub(super) fn take(&mut self) -> Keepsake {
        let is_signed = |thought: &Thought| match thought {
            Thought::Thinking { signature, .. } => !signature.is_empty(),
            Thought::RedactedThinking { .. } => true,
        };
        let mut blocks = std::mem::take(&mut self.blocks);
        // The vendor refuses a thought without its signature.
        blocks.retain(is_signed);
        match blocks.as_mut_slice() {
            [] => Keepsake::default(),
            [Thought::Thinking { thinking, signature }] => Keepsake {
                signature: Some(std::mem::take(signature)),
                reasoning: Some(std::mem::take(thinking)),
            },
            // Note: cannot fail: it is all strings.
            blocks => Keepsake { signature: serde_json::to_string(blocks).ok(), reasoning: None },
        }
    }

    fn push(&mut self, thought: Thought) -> Result<(), Failure> {
        if self.blocks.len() == THOUGHTS_COUNT_MAX {
            return Err(Failure::bad_stream(format!("more than {THOUGHTS_COUNT_MAX} thoughts")));
        }
        self.blocks.push(thought);
        Ok(())
    }

    fn grow(&mut self, piece: &str) -> Result<(), Failure> {
        self.signatures_size += piece.len();
        if self.signatures_size > SIGNATURES_SIZE_MAX {
            return Err(Failure::bad_stream(format!(
                "the signatures are larger than {SIGNATURES_SIZE_MAX} bytes"
            )));
        }
        Ok(())
    }
}

/// The blocks to put back before the call that this was kept for.
pub(super) fn blocks(keepsake: Keepsake) -> Vec<Value> {
    let thoughts = match keepsake {
        Keepsake { signature: Some(signature), reasoning: Some(thinking) } => {
            vec![Thought::Thinking { thinking, signature }]
        }
        // What is not ours is not put back: the vendor would refuse it.
        Keepsake { signature: Some(blocks), reasoning: None } => {
            serde_json::from_str(&blocks).unwrap_or_default()
        }
        Keepsake { signature: None, .. } => Vec::new(),
    };
    thoughts.iter().filter_map(|thought| serde_json::to_value(thought).ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::dialect::Class;

    fn round_trip(thoughts: &mut Thoughts) -> Value {
        blocks(thoughts.take()).into()
    }

    #[test]
    fn one_thought_is_kept_in_the_keepsakes_own_fields() {
        let mut thoughts = Thoughts::default();
        thoughts.begin().unwrap();
        thoughts.think("so ");
        thoughts.think("be it");
        thoughts.sign("c2ln").unwrap();
        thoughts.sign("bmVk").unwrap();
        let keepsake = thoughts.take();
        assert_eq!(keepsake.reasoning.as_deref(), Some("so be it"));
        assert_eq!(keepsake.signature.as_deref(), Some("c2lnbmVk"));
        let block = json!({"type": "thinking", "thinking": "so be it", "signature": "c2lnbmVk"});
        assert_eq!(blocks(keepsake), [block]);
        assert_eq!(thoughts.take(), Keepsake::default(), "each is kept once");
    }

    #[test]
    fn several_thoughts_and_encrypted_ones_come_back_in_their_order() {
        let mut thoughts = Thoughts::default();
        thoughts.redacted("eA==").unwrap();
        assert_eq!(
            round_trip(&mut thoughts),
            json!([{"type": "redacted_thinking", "data": "eA=="}])
        );
        thoughts.redacted("eQ==").unwrap();
        thoughts.begin().unwrap();
        thoughts.think("\"well\"");
        thoughts.sign("eg==").unwrap();
        assert_eq!(
            round_trip(&mut thoughts),
            json!([
                {"type": "redacted_thinking", "data": "eQ=="},
                {"type": "thinking", "thinking": "\"well\"", "signature": "eg=="},
            ])
        );
    }

    #[test]
    fn what_is_not_signed_or_not_ours_is_not_put_back() {
        let mut thoughts = Thoughts::default();
        thoughts.begin().unwrap();
        thoughts.think("unsigned");
        assert_eq!(round_trip(&mut thoughts), json!([]));
        let foreign =
            |signature: &str| Keepsake { signature: Some(signature.into()), reasoning: None };
        for keepsake in [foreign("sig"), foreign("[{\"type\":\"tool_use\"}]"), Keepsake::default()]
        {
            assert!(blocks(keepsake).is_empty());
        }
    }

    #[test]
    fn thoughts_and_signatures_are_bounded() {
        let mut thoughts = Thoughts::default();
        for _ in 0..THOUGHTS_COUNT_MAX {
            thoughts.begin().unwrap();
        }
        assert_eq!(thoughts.begin().unwrap_err().class, Class::BadStream);
        let half = "x".repeat(SIGNATURES_SIZE_MAX / 2);
        thoughts.sign(&half).unwrap();
        thoughts.take();
        thoughts.redacted(&half).unwrap();
        assert_eq!(thoughts.sign("x").unwrap_err().class, Class::BadStream);
    }
}
