//! Recordings of the services.

use crate::dialect::Class;
use crate::dialect::row::fnv1a;
use crate::dialect::testing::{at_random_splits, decode, recorded};
use crate::protocol::FinishReason;

/// What a recording has, by a decoder of its own in another language: sizes and FNV-1a of text and
/// reasoning, the end, the tokens (in, out, total, cached, reasoning).
type Recorded = (
    &'static str,
    &'static str,
    (usize, u64),
    (usize, u64),
    Option<(FinishReason, &'static str)>,
    Option<[Option<u64>; 5]>,
);

const NO_TEXT: (usize, u64) = (0, 0xcbf2_9ce4_8422_2325);

const RECORDED: &[Recorded] = &[
    (
        "openai-24.sse",
        "openai",
        (32, 0x00a3_a269_9abd_eb82),
        NO_TEXT,
        Some((FinishReason::Stop, "gpt-4o-mini-2024-07-18")),
        Some([Some(78), Some(9), Some(87), Some(0), Some(0)]),
    ),
    (
        "openrouter-02.sse",
        "openrouter",
        (90, 0x2eea_4609_9953_b0cb),
        NO_TEXT,
        Some((FinishReason::Stop, "deepseek/deepseek-chat")),
        Some([Some(2317), Some(53), Some(2370), Some(0), Some(0)]),
    ),
    // Ends with an error after its reason.
    ("openrouter-04.sse", "openrouter", NO_TEXT, (42, 0xb052_a904_dca1_c348), None, None),
    (
        "openrouter-06.sse",
        "openrouter",
        (9, 0x41e9_31da_82c3_78e5),
        (51, 0xf600_84c9_3ba9_9b36),
        Some((FinishReason::Stop, "anthropic/claude-sonnet-4.5")),
        Some([Some(43), Some(36), Some(79), Some(0), Some(13)]),
    ),
    (
        "mistral-00.sse",
        "mistral",
        (607, 0x1993_c76f_eaa2_6def),
        (421, 0x3c70_29e3_60e6_01e7),
        Some((FinishReason::Stop, "magistral-medium-latest")),
        Some([Some(10), Some(232), Some(242), None, None]),
    ),
    // Ends with an error, and without `[DONE]`.
    ("groq-00.sse", "groq", (5, 0x531a_b7a4_be7b_f10b), (361, 0x90a1_6561_1081_a135), None, None),
    (
        "groq-02.sse",
        "groq",
        (202, 0x2621_5d2e_ddc7_a9d6),
        (6304, 0xf6f8_1c2d_45a7_aa35),
        Some((FinishReason::Stop, "groq/compound")),
        Some([Some(5003), Some(359), Some(5362), None, None]),
    ),
    (
        "groq-04.sse",
        "groq",
        NO_TEXT,
        (92, 0xcd77_06c3_844b_9232),
        Some((FinishReason::ToolCalls, "openai/gpt-oss-120b")),
        Some([Some(304), Some(49), Some(353), None, Some(23)]),
    ),
    (
        "zai-00.sse",
        "zai",
        (1, 0xaf63_a94c_8601_95e3),
        (2173, 0xec96_0c86_d250_74e3),
        Some((FinishReason::Stop, "glm-4.7")),
        Some([Some(13), Some(564), Some(577), Some(0), Some(561)]),
    ),
    (
        "huggingface-00.sse",
        "huggingface",
        (2580, 0x97af_87fe_1ebf_9988),
        (1430, 0x9d81_789b_007b_b53a),
        Some((FinishReason::Stop, "deepseek-ai/DeepSeek-R1")),
        Some([Some(10), Some(955), Some(965), Some(0), None]),
    ),
    (
        "genai-aihubmix-chat_stream-000.body",
        "openai-compatible",
        (6, 0x9224_f7e0_7c59_f23f),
        NO_TEXT,
        Some((FinishReason::Stop, "gpt-4o-mini-2024-07-18")),
        Some([Some(15), Some(3), Some(18), Some(0), Some(0)]),
    ),
    (
        "genai-github_copilot-simple_stream-000.body",
        "openai-compatible",
        (138, 0x81ca_781c_f6b1_621e),
        NO_TEXT,
        Some((FinishReason::Stop, "gpt-4.1-mini-2025-04-14")),
        None,
    ),
    // Not streamed.
    (
        "genai-opencode_go-openai_chat-000.body",
        "openai-compatible",
        (5, 0x63f0_bfac_f2c0_0f6b),
        (316, 0xe2f9_a572_f905_5b3c),
        Some((FinishReason::Stop, "frank/GLM-5.1")),
        Some([Some(10), Some(79), Some(89), Some(0), None]),
    ),
];

#[test]
fn recordings_are_decoded_as_a_decoder_of_another_make_does() {
    for (file, kind, text, reasoning, end, usage) in RECORDED {
        let Some(body) = recorded(file) else { return };
        let decoded = at_random_splits(kind, &body);
        let size_and_hash = |text: &str| (text.len(), fnv1a(text));
        assert_eq!(size_and_hash(&decoded.text()), *text, "{file}: {}", decoded.text());
        assert_eq!(size_and_hash(&decoded.reasoning()), *reasoning, "{file}");
        let calls = match *file {
            "groq-04.sse" => vec![(
                "fc_bfb39741-3748-4def-9886-a93fc9c64a90",
                "get_something_by_name",
                "{\"name\":\"example\"}".to_owned(),
            )],
            _ => Vec::new(),
        };
        assert_eq!(decoded.told_calls(), calls, "{file}");
        match end {
            Some(end) => {
                let (finish, cost, model) = decoded.end();
                assert_eq!((finish, model), *end, "{file}");
                assert_eq!(cost.estimated.is_none(), usage.is_some(), "{file}");
                if let Some(usage) = usage {
                    let counts = [cost.input_tokens, cost.output_tokens, cost.total_tokens];
                    let counts = counts.map(Some);
                    assert_eq!(counts[..], usage[..3], "{file}");
                    assert_eq!(
                        [cost.cached_input_tokens, cost.reasoning_tokens][..],
                        usage[3..],
                        "{file}"
                    );
                }
            }
            None => assert_eq!(decoded.failed().0, Class::BadRequest, "{file}"),
        }
        // The whole body at every split takes minutes for the large ones: some, and small pieces.
        let step = (body.len() / 16).max(1);
        for split in (0..body.len()).step_by(step) {
            assert_eq!(
                decode(kind, [&body[..split], &body[split..]]),
                decoded,
                "{file} at {split}"
            );
        }
        assert_eq!(decode(kind, body.chunks(7)), decoded, "{file}");
        // Cut anywhere before the reason for its end, no recording is a whole answer.
        let reason = b"\"finish_reason\":\"";
        let at = body.windows(reason.len()).position(|window| window == reason);
        for split in (0..at.unwrap_or(body.len())).step_by(step) {
            assert!(decode(kind, [&body[..split]]).failure.is_some(), "{file} cut at {split}");
        }
    }
}
