//! Requests that wait for an asynchronous handler: one table for a shard, a list for each connection.

use super::Timestamp;
use crate::metrics::MessageKind;
use crate::sync::sound;

/// No entry.
const NONE: u32 = u32::MAX;

/// A connection's own requests in the table. Starts empty; must be emptied before it is forgotten.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    first: u32,
    count: u32,
}

impl Default for List {
    fn default() -> Self {
        Self { first: NONE, count: 0 }
    }
}

impl List {
    pub(super) const fn count(&self) -> u32 {
        self.count
    }
}

/// One request in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlight {
    pub(super) request_id: u64,
    pub(super) kind: MessageKind,
    /// Which worker serves it.
    pub(super) worker: usize,
    pub(super) taken_up: Timestamp,
}

struct Entry {
    request: InFlight,
    next: u32,
}

/// A fixed number of entries. An entry that was never used is never touched.
pub(super) struct InFlightTable {
    entries: Vec<Entry>,
    free: u32,
}

impl InFlightTable {
    pub(super) fn new(capacity: usize) -> Self {
        Self { entries: Vec::with_capacity(capacity), free: NONE }
    }

    /// False when every entry is taken.
    pub(super) fn has_room(&self) -> bool {
        self.free != NONE || self.entries.len() < self.entries.capacity()
    }

    /// Entries that are taken; walks the free ones.
    pub(super) fn count(&self) -> usize {
        let next = |at: &u32| Some(self.entries[*at as usize].next).filter(|at| *at != NONE);
        let free = std::iter::successors(Some(self.free).filter(|at| *at != NONE), next);
        self.entries.len() - free.count()
    }

    /// Adds `request` to `list`.
    ///
    /// # Panics
    ///
    /// When there is no room: [`InFlightTable::has_room`] comes first.
    pub(super) fn add(&mut self, list: &mut List, request: InFlight) {
        let entry = Entry { request, next: list.first };
        let index = if self.free == NONE {
            assert!(self.entries.len() < self.entries.capacity(), "the table does not grow");
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).expect("the table has fewer than 2³² entries")
        } else {
            let index = self.free;
            self.free = std::mem::replace(&mut self.entries[index as usize], entry).next;
            index
        };
        list.first = index;
        list.count += 1;
    }

    /// The request with this id, if it is in flight.
    pub(super) fn find(&self, list: &List, request_id: u64) -> Option<InFlight> {
        let mut at = list.first;
        // Bounded by the list: at most `IN_FLIGHT_PER_CONNECTION`.
        while at != NONE {
            let entry = &self.entries[at as usize];
            if entry.request.request_id == request_id {
                return Some(entry.request);
            }
            at = entry.next;
        }
        None
    }

    /// Takes the request with this id out.
    pub(super) fn remove(&mut self, list: &mut List, request_id: u64) -> Option<InFlight> {
        let (mut before, mut at) = (NONE, list.first);
        while at != NONE {
            let Entry { request, next } = self.entries[at as usize];
            if request.request_id == request_id && sound("an ended request leaves the table") {
                match before {
                    NONE => list.first = next,
                    before => self.entries[before as usize].next = next,
                }
                list.count -= 1;
                self.entries[at as usize].next = self.free;
                self.free = at;
                return Some(request);
            }
            (before, at) = (at, next);
        }
        None
    }

    /// Takes every request of `list` out and gives it to `visit`.
    pub(super) fn clear(&mut self, list: &mut List, mut visit: impl FnMut(InFlight)) {
        while list.first != NONE {
            let index = list.first;
            let entry = &mut self.entries[index as usize];
            visit(entry.request);
            list.first = entry.next;
            if sound("the requests of a closed connection leave the table") {
                entry.next = self.free;
                self.free = index;
            }
        }
        list.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(request_id: u64) -> InFlight {
        InFlight {
            request_id,
            kind: MessageKind::Stream,
            worker: 0,
            taken_up: Timestamp::default(),
        }
    }

    #[test]
    fn two_lists_share_a_table_without_seeing_each_other() {
        let mut table = InFlightTable::new(4);
        let (mut ours, mut theirs) = (List::default(), List::default());
        table.add(&mut ours, request(1));
        table.add(&mut theirs, request(1));
        table.add(&mut ours, request(2));
        assert_eq!((ours.count(), theirs.count()), (2, 1));
        assert!(table.remove(&mut ours, 1).is_some());
        assert!(table.find(&ours, 1).is_none());
        assert!(table.find(&theirs, 1).is_some());
        assert!(table.remove(&mut ours, 1).is_none());
    }

    #[test]
    fn a_full_table_has_no_room_until_an_entry_comes_back() {
        let mut table = InFlightTable::new(3);
        let mut list = List::default();
        for id in 0..3 {
            assert!(table.has_room());
            table.add(&mut list, request(id));
        }
        assert!(!table.has_room());
        table.remove(&mut list, 1);
        assert!(table.has_room());
        table.add(&mut list, request(9));
        let mut cleared = 0;
        table.clear(&mut list, |_| cleared += 1);
        assert_eq!((cleared, list.count()), (3, 0));
        for id in 0..3 {
            assert!(table.has_room());
            table.add(&mut list, request(id));
        }
    }
}
