//! Who has asked something of a shard between two parks, and where they are: what decides where it
//! parks next.

use crate::region::Whereabouts;

/// The clients that became quiet since the shard last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Company {
    /// None.
    #[default]
    Nobody,
    /// One, or several on one core.
    Together {
        /// The slot of the last of them.
        slot: u32,
        /// Where they are. It polls when any of them does.
        place: Whereabouts,
    },
    /// One at least has not said where it is.
    Unknown,
    /// Several, on different cores.
    Scattered,
}

impl Company {
    /// Another one, and what it says.
    pub fn join(&mut self, slot: u32, place: Option<Whereabouts>) {
        *self = match (*self, place) {
            (Self::Scattered, _) => Self::Scattered,
            (_, None) | (Self::Unknown, _) => Self::Unknown,
            (Self::Nobody, Some(place)) => Self::Together { slot, place },
            (Self::Together { place: other, .. }, Some(place)) if other.core == place.core => {
                let polls = other.polls || place.polls;
                Self::Together { slot, place: Whereabouts { polls, ..place } }
            }
            (Self::Together { .. }, Some(_)) => Self::Scattered,
        };
    }
}

#[cfg(all(test, not(annulus_loom)))]
mod tests {
    use super::*;

    fn company(clients: &[(u32, Option<(u32, bool)>)]) -> Company {
        let mut company = Company::Nobody;
        for (slot, place) in clients {
            company.join(*slot, place.map(|(core, polls)| Whereabouts { core, polls }));
        }
        company
    }

    #[test]
    fn clients_of_one_core_are_together_and_poll_if_one_does() {
        let place = Whereabouts { core: 3, polls: true };
        let together = company(&[(1, Some((3, true))), (2, Some((3, false)))]);
        assert_eq!(together, Company::Together { slot: 2, place });
    }

    #[test]
    fn other_cores_scatter_and_who_says_nothing_is_unknown() {
        assert_eq!(company(&[]), Company::Nobody);
        assert_eq!(company(&[(1, Some((3, true))), (2, Some((4, true)))]), Company::Scattered);
        assert_eq!(company(&[(1, Some((3, true))), (2, None)]), Company::Unknown);
        assert_eq!(company(&[(2, None), (1, Some((3, true)))]), Company::Unknown);
    }
}
