//! One slot: a place for a connection, made when it is first used and used again and again.

use super::recent_use::RecentUse;
use crate::connection::{Connection, ConnectionStatistics, Timestamp};
use crate::region::{RegionMemory, Whereabouts};

/// A connection's way through its slot: `Free → Serving → Closing → Free`.
pub(super) enum State<M> {
    Free,
    Serving(Connection<M>),
    Closing(Closing),
}

/// A closed connection, until the shell and every worker have let go of its slot.
#[derive(Clone, Copy)]
pub(super) struct Closing {
    /// Workers, as bits, that have not been told yet: their job rings were full.
    pub(super) untold: u32,
    /// Workers that may still publish replies.
    pub(super) unacknowledged: u32,
    pub(super) shell_done: bool,
    pub(super) connection_id: u64,
    pub(super) statistics: ConnectionStatistics,
}

#[repr(align(64))]
pub(super) struct Slot<M> {
    pub(super) state: State<M>,
    /// When the last visit found something; meaningful while hot.
    pub(super) quiet_since: Timestamp,
    /// Looks since then that found nothing.
    pub(super) quiet_looks: u32,
    pub(super) hot: bool,
    /// Its client has rung or asked since the slot became hot; without that, a worker's replies made
    /// it so. Only while hot.
    pub(super) asked: bool,
    /// Waits for space in its response ring.
    pub(super) blocked: bool,
    /// Is in [`super::Table::starved`].
    pub(super) starved: bool,
    /// The last visit found more than one request, or a large one; or the slot has become hot after
    /// much use.
    pub(super) bulk: bool,
    pub(super) recent: RecentUse,
    /// Visits in a row that found one small request each, as far as they count.
    pub(super) single_visits: u8,
    /// Is in [`super::Table::interactive`].
    pub(super) listed: bool,
    /// What its client was told about [`super::Table::beside`].
    pub(super) told: Option<u16>,
}

#[cfg(not(annulus_loom))]
static_assertions::const_assert_eq!(
    size_of::<Slot<crate::region::Region>>() as u64,
    5 * crate::limits::LINE_SIZE
);

impl<M> Slot<M> {
    /// A slot that nobody has been in.
    pub(super) fn new() -> Self {
        Self {
            state: State::Free,
            quiet_since: Timestamp::default(),
            quiet_looks: 0,
            hot: false,
            asked: false,
            blocked: false,
            starved: false,
            bulk: false,
            recent: RecentUse::default(),
            single_visits: 0,
            listed: false,
            told: None,
        }
    }
}

impl<M: RegionMemory> Slot<M> {
    /// Asks for the lines at which the next request will appear, and for those into which its answer
    /// will go. Not for these where the last visit found nothing: there a client may be polling them.
    #[inline]
    pub(super) fn touch(&self) {
        if let State::Serving(connection) = &self.state {
            let (view, ends) = (connection.memory.view(), &connection.ends);
            ends.requests.prefetch(view.request_ring());
            if self.quiet_looks == 0 {
                ends.responses.prefetch(view.response_ring());
                view.client_parked().prefetch();
            }
        }
    }

    /// Asks for the rest of them where frames are long.
    #[inline]
    pub(super) fn touch_rest(&self) {
        if let State::Serving(connection) = &self.state
            && self.quiet_looks == 0
        {
            let (view, ends) = (connection.memory.view(), &connection.ends);
            ends.requests.prefetch_rest(view.request_ring());
            ends.responses.prefetch_rest(view.response_ring());
        }
    }

    /// True when a request waits to be taken.
    #[inline]
    pub(super) fn has_request(&self) -> bool {
        match &self.state {
            State::Serving(connection) => {
                !connection.ends.requests.is_empty(connection.memory.view().request_ring())
            }
            _ => false,
        }
    }

    /// Tells the client on which core the shard sits beside it, unless it knows.
    pub(super) fn tell(&mut self, core: Option<u32>) {
        // No kernel counts further.
        let core = core.and_then(|core| u16::try_from(core).ok());
        if self.told == core {
            return;
        }
        if let State::Serving(connection) = &self.state {
            let place = core.map(|core| Whereabouts { core: core.into(), polls: false });
            connection.memory.view().daemon_core().store(place);
            self.told = core;
        }
    }

    /// Marks the slot as polled, and tells its client that nobody need ring.
    pub(super) fn warm(&mut self, beside: Option<u32>, now: Timestamp) {
        self.hot = true;
        self.quiet_looks = 0;
        self.bulk = !self.recent.may_go_first(self.single_visits, now);
        self.tell(beside);
        if let State::Serving(connection) = &self.state {
            connection.memory.view().daemon_parked().disarm();
            connection.memory.view().daemon_blocked().disarm();
        }
    }
}
