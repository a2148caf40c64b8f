//! Which handler serves which message type. Fixed before the first connection.

use std::sync::Arc;

use super::Handler;
use crate::wire::MessageType;

/// Types below this find their route in an array; the users' by binary search.
const DIRECT_COUNT: usize = 16;

/// Where requests of one type go.
#[derive(Clone)]
pub enum Route {
    /// A handler on the data shard.
    Synchronous(Arc<dyn Handler>),
    /// The worker executor with this index.
    Worker(usize),
    /// Ends another request.
    Cancel,
}

/// The routes of a server, shared by its shards.
#[derive(Clone, Default)]
pub struct Routes {
    direct: [Option<Route>; DIRECT_COUNT],
    users: Vec<(MessageType, Route)>,
}

impl Routes {
    /// Only [`MessageType::CANCEL`] is served.
    #[must_use]
    pub fn new() -> Self {
        let mut routes = Self::default();
        routes.set(MessageType::CANCEL, Route::Cancel);
        routes
    }

    /// Serves `message_type` by `route`; a later one replaces an earlier one.
    pub fn set(&mut self, message_type: MessageType, route: Route) {
        if let Some(place) = self.direct.get_mut(usize::from(message_type.to_wire())) {
            *place = Some(route);
            return;
        }
        match self.users.binary_search_by_key(&message_type, |(known, _)| *known) {
            Ok(index) => self.users[index].1 = route,
            Err(index) => self.users.insert(index, (message_type, route)),
        }
    }

    /// The route of `message_type`, if anyone serves it.
    #[inline]
    #[must_use]
    pub fn find(&self, message_type: MessageType) -> Option<&Route> {
        match self.direct.get(usize::from(message_type.to_wire())) {
            Some(route) => route.as_ref(),
            None => self
                .users
                .binary_search_by_key(&message_type, |(known, _)| *known)
                .ok()
                .map(|index| &self.users[index].1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_and_users_types_are_found_and_others_are_not() {
        let mut routes = Routes::new();
        for offset in [9, 3, 7] {
            routes.set(MessageType::user(offset), Route::Worker(usize::from(offset)));
        }
        routes.set(MessageType::ECHO, Route::Worker(1));
        routes.set(MessageType::user(3), Route::Worker(33));
        let worker = |message_type| match routes.find(message_type) {
            Some(Route::Worker(index)) => Some(*index),
            _ => None,
        };
        assert_eq!(worker(MessageType::ECHO), Some(1));
        assert_eq!(worker(MessageType::user(3)), Some(33));
        assert_eq!(worker(MessageType::user(9)), Some(9));
        assert_eq!(worker(MessageType::user(4)), None);
        assert!(matches!(routes.find(MessageType::CANCEL), Some(Route::Cancel)));
        assert!(routes.find(MessageType::HEARTBEAT).is_none());
    }
}
