//! The pool of exclusive connections.

use std::thread;
use std::time::Duration;

use super::in_time;
use crate::IpcError;
use crate::client::testing::{NEVER, StandIn};
use crate::client::{ConnectionPool, PoolOptions, RequestOptions};
use crate::wire::MessageType;

fn pool(daemon: &StandIn, options: PoolOptions) -> ConnectionPool {
    let connect = daemon.options().connect_timeout(Duration::from_millis(300));
    ConnectionPool::new(connect, options)
}

#[test]
fn the_connection_used_last_is_taken_first() {
    in_time(|| {
        let daemon = StandIn::usual();
        let pool = pool(&daemon, PoolOptions::default());
        let mut answer = Vec::new();
        for _ in 0..3 {
            let mut connection = pool.get().unwrap();
            connection.call(MessageType::ECHO, b"x", &mut answer).unwrap();
        }
        let stats = pool.stats();
        assert_eq!((stats.connected, stats.reused, stats.open, stats.idle), (1, 2, 1, 1));

        let (first, second) = (pool.get().unwrap(), pool.get().unwrap());
        assert_eq!((pool.stats().open, pool.stats().idle), (2, 0));
        drop((first, second));
        assert_eq!((pool.stats().open, pool.stats().idle), (2, 2));
    });
}

#[test]
fn idle_connections_beyond_the_limit_are_closed() {
    in_time(|| {
        let daemon = StandIn::usual();
        let pool = pool(&daemon, PoolOptions { max_idle: 2, ..PoolOptions::default() });
        let taken: Vec<_> = (0..5).map(|_| pool.get().unwrap()).collect();
        drop(taken);
        let stats = pool.stats();
        assert_eq!((stats.open, stats.idle, stats.expired), (2, 2, 3));
    });
}

#[test]
fn idle_connections_beyond_their_time_are_closed() {
    in_time(|| {
        let daemon = StandIn::usual();
        let options =
            PoolOptions { idle_timeout: Duration::from_millis(20), ..PoolOptions::default() };
        let pool = pool(&daemon, options);
        drop((pool.get().unwrap(), pool.get().unwrap()));
        thread::sleep(Duration::from_millis(30));
        pool.close_expired();
        let stats = pool.stats();
        assert_eq!((stats.open, stats.idle, stats.expired), (0, 0, 2));
        drop(pool.get().unwrap());
        thread::sleep(Duration::from_millis(30));
        drop(pool.get().unwrap());
        assert_eq!(pool.stats().connected, 4);
    });
}

#[test]
fn a_bounded_pool_makes_its_users_wait() {
    in_time(|| {
        let daemon = StandIn::usual();
        let pool = pool(&daemon, PoolOptions { max_open: Some(1), ..PoolOptions::default() });
        let taken = pool.get().unwrap();
        assert!(matches!(pool.get(), Err(IpcError::Busy { .. })));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| pool.get().map(drop));
            while pool.stats().waits < 2 {
                thread::sleep(Duration::from_millis(1));
            }
            drop(taken);
            waiting.join().unwrap().unwrap();
        });
        let stats = pool.stats();
        assert_eq!((stats.open, stats.idle, stats.connected, stats.waits), (1, 1, 1, 2));
    });
}

#[test]
fn a_connection_with_something_in_flight_is_not_kept() {
    in_time(|| {
        let daemon = StandIn::usual();
        let pool = pool(&daemon, PoolOptions::default());
        let mut connection = pool.get().unwrap();
        let soon = RequestOptions::within(Duration::from_millis(5));
        let error = connection.call_with(NEVER, &[], soon, &mut Vec::new());
        assert!(matches!(error, Err(IpcError::Timeout)));
        let waits = connection.in_flight() > 0;
        drop(connection);
        assert!(waits);
        assert_eq!((pool.stats().open, pool.stats().discarded), (0, 1));
    });
}

#[test]
fn dead_connections_are_discarded_and_a_dead_daemon_is_an_error() {
    in_time(|| {
        let mut daemon = StandIn::usual();
        let pool = pool(&daemon, PoolOptions { max_open: Some(2), ..PoolOptions::default() });
        drop((pool.get().unwrap(), pool.get().unwrap()));
        daemon.die();
        for _ in 0..3 {
            assert!(pool.get().is_err());
        }
        let stats = pool.stats();
        assert_eq!((stats.open, stats.idle, stats.discarded), (0, 0, 2));
    });
}
