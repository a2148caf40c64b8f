//! A dialect of lines, so that these tests hang on none of the real ones.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use http::HeaderMap;

use super::super::real::Dialects;
use super::super::seams::{Decode, Wire};
use crate::dialect::{Auth, Call, Class, Dialect, Encoding, Failure, Keepsake, Quirks, Row};
use crate::protocol::{AIRequest, FinishReason, JsonValue, StreamEvent, ToolCall, Usage};

/// A kind of provider that speaks the lines of [`Lines`].
pub(in super::super) const ROW: Row = Row {
    kind: "lines",
    dialect: Dialect::OpenAi,
    base_url: "",
    auth: Auth::Bearer,
    key_variables: &["LINES_API_KEY"],
    needs_key: false,
    headers: &[],
    first_output_secs: Some(60),
    models_path: "",
    quirks: Quirks::NONE,
};
pub(in super::super) static ROW_OF_ALL: Row = ROW;

/// A dialect of lines: `text WORDS`, `call ID`, `part` of a call, `end`, `fail WORDS`; others
/// are proof of life.
pub(super) struct Lines;

impl Wire for Lines {
    fn encode(&self, encoding: &Encoding<'_>, request: &AIRequest) -> Result<Call, Failure> {
        let last = request.messages.last().map_or("", |message| &message.content);
        if last == "no words for it" {
            return Err(Failure::new(Class::BadRequest, last));
        }
        let calls = request.messages.iter().filter_map(|message| message.tool_calls.as_ref());
        let kept: Vec<String> = calls
            .flatten()
            .filter_map(|call| encoding.keepsakes.find(encoding.row.kind, &call.id))
            .filter_map(|keepsake| keepsake.signature)
            .collect();
        let body = format!("{}: {last}{}", encoding.model, kept.concat());
        Ok(Call { path: "/lines".into(), body: body.into_bytes() })
    }

    fn decode(&self, _row: &'static Row, request: &AIRequest) -> Box<dyn Decode> {
        Box::new(LineDecoder { model: request.model.clone(), ..LineDecoder::default() })
    }

    fn refusal(
        &self,
        row: &'static Row,
        status: u16,
        headers: &HeaderMap,
        body: &[u8],
        today: SystemTime,
    ) -> Failure {
        let mut failure = Dialects.refusal(row, status, headers, body, today);
        failure.hints.wait = headers
            .get("retry-after")
            .map(|value| Duration::from_secs_f64(value.to_str().unwrap().parse().unwrap()));
        failure
    }
}

#[derive(Default)]
struct LineDecoder {
    model: String,
    text: String,
    events: VecDeque<StreamEvent>,
    keepsakes: Vec<(String, Keepsake)>,
    has_output: bool,
    is_over: bool,
}

impl Decode for LineDecoder {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.text.push_str(std::str::from_utf8(bytes).unwrap());
        while let Some((line, rest)) = self.text.split_once('\n') {
            let (word, words) = line.split_once(' ').unwrap_or((line, ""));
            self.has_output |= matches!(word, "part" | "text" | "call");
            match word {
                "text" => self.events.push_back(StreamEvent::Text { text: words.into() }),
                "call" => {
                    let keepsake =
                        Keepsake { signature: Some(format!("<{words}>")), reasoning: None };
                    self.keepsakes.push((words.into(), keepsake));
                    self.events.push_back(StreamEvent::ToolCall {
                        tool_call: ToolCall {
                            name: "t".into(),
                            parameters: JsonValue::default(),
                            id: words.into(),
                        },
                    });
                }
                "end" => {
                    self.is_over = true;
                    self.events.push_back(StreamEvent::End {
                        finish_reason: FinishReason::Stop,
                        usage: Usage { input_tokens: 3, output_tokens: 5, ..Usage::default() },
                        model: self.model.clone(),
                    });
                }
                "fail" => return Err(Failure::bad_stream(words)),
                _ => {}
            }
            self.text = rest.to_owned();
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Failure> {
        if self.is_over { Ok(()) } else { Err(Failure::new(Class::Incomplete, "cut short")) }
    }

    fn next_event(&mut self) -> Option<StreamEvent> {
        self.events.pop_front()
    }

    fn has_output(&self) -> bool {
        self.has_output || self.is_over
    }

    fn take_keepsakes(&mut self) -> Vec<(String, Keepsake)> {
        std::mem::take(&mut self.keepsakes)
    }
}
