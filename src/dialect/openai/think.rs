//! What a model thinks between `<think>` and `</think>`, apart from what it says.
//!
//! Only at the beginning of an answer: further on, the words may be what the answer is about.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// Blanks before the tag that are waited for.
const BLANKS_MAX: usize = 64;

/// Takes the text of an answer, piece by piece.
#[derive(Debug, Default)]
pub(super) struct Think {
    place: Place,
    /// What may still become a tag.
    held: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    /// Nothing but blanks so far.
    #[default]
    Start,
    Inside,
    /// After the closing tag, and before the text.
    Between,
    Text,
}

/// A piece, and which of both it is.
#[derive(Debug, PartialEq, Eq, Clone)]
pub(super) enum Piece {
    Text(String),
    Thought(String),
}

impl Think {
    /// Whether what comes from here on is text as it is.
    pub(super) fn is_past(&self) -> bool {
        self.place == Place::Text
    }

    /// Reads the next piece of the text: at most a thought and a text come of it.
    pub(super) fn read(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        if self.place == Place::Start {
            let begun = self.held.trim_start();
            let blanks = self.held.len() - begun.len();
            if let Some(rest) = begun.strip_prefix(OPEN) {
                self.held = rest.to_owned();
                self.place = Place::Inside;
            } else if OPEN.starts_with(begun) && blanks <= BLANKS_MAX {
                return pieces;
            } else {
                self.place = Place::Text;
            }
        }
        if self.place == Place::Inside {
            let (thought, rest) = match self.held.split_once(CLOSE) {
                Some((thought, rest)) => {
                    self.place = Place::Between;
                    (thought, rest)
                }
                None => self.held.split_at(self.held.len() - held_back(&self.held)),
            };
            if !thought.is_empty() {
                pieces.push(Piece::Thought(thought.to_owned()));
            }
            self.held = rest.to_owned();
        }
        if self.place == Place::Between {
            self.held = self.held.trim_start().to_owned();
            if !self.held.is_empty() {
                self.place = Place::Text;
            }
        }
        if self.place == Place::Text && !self.held.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut self.held)));
        }
        pieces
    }

    /// The text is over: gives what was held.
    pub(super) fn finish(&mut self) -> Option<Piece> {
        let held = std::mem::take(&mut self.held);
        let was_inside = self.place == Place::Inside;
        self.place = Place::Text;
        match held.is_empty() {
            true => None,
            false if was_inside => Some(Piece::Thought(held)),
            false => Some(Piece::Text(held)),
        }
    }
}

/// How many bytes at the end may be the beginning of the closing tag.
fn held_back(text: &str) -> usize {
    (1..CLOSE.len()).rev().find(|&size| text.ends_with(&CLOSE[..size])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text and the thoughts, however the text is cut in two.
    fn split(text: &str) -> (String, String) {
        let run = |pieces: &[&str]| {
            let mut think = Think::default();
            let mut all: Vec<_> = pieces.iter().flat_map(|piece| think.read(piece)).collect();
            all.extend(think.finish());
            let (mut said, mut thought) = (String::new(), String::new());
            for piece in all {
                match piece {
                    Piece::Text(text) => said.push_str(&text),
                    Piece::Thought(text) => thought.push_str(&text),
                }
            }
            (said, thought)
        };
        let whole = run(&[text]);
        for (at, _) in text.char_indices() {
            assert_eq!(run(&[&text[..at], &text[at..]]), whole, "{text} at {at}");
        }
        let single: Vec<String> = text.chars().map(String::from).collect();
        assert_eq!(run(&single.iter().map(String::as_str).collect::<Vec<_>>()), whole, "{text}");
        whole
    }

    #[test]
    fn thoughts_are_told_from_text_wherever_the_pieces_end() {
        for (text, said, thought) in [
            ("<think>a</think>b", "b", "a"),
            ("\n <think>\nä </th</think>\n\nb <think>c</think>", "b <think>c</think>", "\nä </th"),
            ("<think></think>b", "b", ""),
            ("<think>cut sho</thi", "", "cut sho</thi"),
            ("<think>", "", ""),
            ("<thin", "<thin", ""),
            ("<thing>a</thing>", "<thing>a</thing>", ""),
            ("A <think>b</think>", "A <think>b</think>", ""),
            ("  plain", "  plain", ""),
            ("", "", ""),
        ] {
            assert_eq!(split(text), (said.into(), thought.into()), "{text}");
        }
    }

    #[test]
    fn blanks_are_not_held_for_ever() {
        let mut think = Think::default();
        let pieces: Vec<_> = (0..=BLANKS_MAX).flat_map(|_| think.read(" ")).collect();
        assert_eq!(pieces, [Piece::Text(" ".repeat(BLANKS_MAX + 1))]);
        assert!(think.is_past());
    }
}
