//! Which call a piece of one belongs to, among services that disagree on how to say so.

use super::chunk::CallPiece;
use crate::dialect::json::or_empty;

/// The calls so far. A call's place here is its index in the answer.
#[derive(Debug, Default)]
pub(super) struct Calls {
    known: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    index: Option<u64>,
    id: String,
}

impl Calls {
    /// The call of this piece, the `position`th of the `count` in its event, and whether it begins
    /// here.
    ///
    /// By `index`, else by id, else by position. A service that gives several calls the same index
    /// shows them apart by their ids; a piece that has neither, but a name, begins a call.
    pub(super) fn find(
        &mut self,
        piece: &CallPiece<'_>,
        position: usize,
        count: usize,
    ) -> (u64, bool) {
        let id = or_empty(&piece.id);
        let has_name = piece.function.as_ref().is_some_and(|f| !or_empty(&f.name).is_empty());
        let is_same = |known: &Known| id.is_empty() || known.id.is_empty() || known.id == id;
        let found = match piece.index {
            Some(index) => self
                .known
                .iter()
                .rposition(|known| known.index == Some(index) && (is_same(known) || !has_name)),
            None if !id.is_empty() => self.known.iter().rposition(|known| known.id == id),
            None if has_name => None,
            None if count == 1 => self.known.len().checked_sub(1),
            None => (position < self.known.len()).then_some(position),
        };
        let at = found.unwrap_or_else(|| {
            self.known.push(Known { index: piece.index, id: String::new() });
            self.known.len() - 1
        });
        if self.known[at].id.is_empty() {
            id.clone_into(&mut self.known[at].id);
        }
        (at as u64, found.is_none())
    }
}
