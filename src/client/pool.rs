//! Exclusive connections for many threads: taken, used, and given back by dropping them.
//!
//! The invariant to remember: only a connection with nothing in flight is kept, so whoever takes it
//! meets no answer of somebody else. A pool has no thread; idle connections beyond their time are
//! closed when somebody takes or gives back, or by [`ConnectionPool::close_expired`].

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::options::ConnectOptions;
use super::slot::lock;
use crate::error::IpcError;

/// How many connections a pool keeps, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolOptions {
    /// Connections kept while nobody uses them; beyond that the longest unused one is closed.
    pub max_idle: usize,
    /// How long a connection may stay unused before it is closed.
    pub idle_timeout: Duration,
    /// Connections open at one time, used and unused; `None`: as many as the daemon allows.
    pub max_open: Option<usize>,
}

impl Default for PoolOptions {
    /// Eight idle connections for a minute, no bound on open ones.
    fn default() -> Self {
        Self { max_idle: 8, idle_timeout: Duration::from_secs(60), max_open: None }
    }
}

/// What a pool has done so far, and how it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Connections open now, used and unused.
    pub open: usize,
    /// Of those: unused.
    pub idle: usize,
    /// Connections made.
    pub connected: u64,
    /// Times that an idle connection was taken again.
    pub reused: u64,
    /// Connections dropped because they were dead or had requests in flight.
    pub discarded: u64,
    /// Idle connections closed by `max_idle` or `idle_timeout`.
    pub expired: u64,
    /// Times that somebody had to wait for `max_open`.
    pub waits: u64,
}

/// A pool of [`Connection`]s to one daemon; clones share it.
///
/// The connection used last is taken first, so that a quiet pool shrinks.
#[derive(Clone)]
pub struct ConnectionPool {
    inner: Arc<Inner>,
}

struct Inner {
    connect: ConnectOptions,
    options: PoolOptions,
    state: Mutex<State>,
    /// A connection was given back or closed.
    freed: Condvar,
}

#[derive(Default)]
struct State {
    /// Unused connections, the longest unused first, with the time since when.
    idle: VecDeque<(Connection, Instant)>,
    /// Everything but `idle`, which is worked out.
    stats: PoolStats,
}

impl ConnectionPool {
    /// A pool without any connection yet.
    #[must_use]
    pub fn new(connect: ConnectOptions, options: PoolOptions) -> Self {
        let (state, freed) = (Mutex::default(), Condvar::new());
        Self { inner: Arc::new(Inner { connect, options, state, freed }) }
    }

    /// Takes an idle connection that is alive, or makes one. With `max_open` connections open, waits
    /// up to the connect timeout for one to be given back.
    ///
    /// # Errors
    ///
    /// Those of [`Connection::connect`]; [`IpcError::Busy`] when that wait is over.
    pub fn get(&self) -> Result<PooledConnection, IpcError> {
        let deadline = Instant::now().checked_add(self.inner.connect.connect_timeout);
        let mut state = lock(&self.inner.state);
        let mut waited = false;
        // Bound: every turn uses up an idle connection, or waits within the deadline.
        loop {
            let expired = self.inner.take_expired(&mut state);
            let taken = state.idle.pop_back();
            let has_room = self.inner.options.max_open.is_none_or(|max| state.stats.open < max);
            let Some((mut connection, _)) = taken else {
                if has_room {
                    state.stats.open += 1;
                    drop((state, expired));
                    return self.connect();
                }
                state.stats.waits += u64::from(!mem::replace(&mut waited, true));
                drop(expired);
                state = self.inner.wait_until(state, deadline)?;
                continue;
            };
            drop((state, expired));
            let alive = connection.check_alive().is_ok();
            state = lock(&self.inner.state);
            if alive {
                state.stats.reused += 1;
                drop(state);
                return Ok(self.lend(connection));
            }
            state.stats.open -= 1;
            state.stats.discarded += 1;
        }
    }

    /// Closes idle connections beyond their time now rather than at the next occasion.
    pub fn close_expired(&self) {
        let mut state = lock(&self.inner.state);
        let expired = self.inner.take_expired(&mut state);
        drop((state, expired));
    }

    /// What this pool has done so far, and how it stands.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        let state = lock(&self.inner.state);
        PoolStats { idle: state.idle.len(), ..state.stats }
    }

    /// Makes a connection, which is counted already.
    fn connect(&self) -> Result<PooledConnection, IpcError> {
        let connected = Connection::connect(&self.inner.connect);
        let mut state = lock(&self.inner.state);
        match connected {
            Ok(connection) => {
                state.stats.connected += 1;
                drop(state);
                Ok(self.lend(connection))
            }
            Err(error) => {
                state.stats.open -= 1;
                drop(state);
                self.inner.freed.notify_one();
                Err(error)
            }
        }
    }

    fn lend(&self, connection: Connection) -> PooledConnection {
        PooledConnection { connection: Some(connection), inner: Arc::clone(&self.inner) }
    }
}

impl Inner {
    /// Takes out what has been idle for too long, for the caller to drop without the lock.
    fn take_expired(&self, state: &mut State) -> Vec<Connection> {
        let mut expired = Vec::new();
        if state.idle.is_empty() {
            return expired;
        }
        let now = Instant::now();
        while let Some((_, since)) = state.idle.front()
            && now.duration_since(*since) >= self.options.idle_timeout
        {
            expired.extend(state.idle.pop_front().map(|(connection, _)| connection));
        }
        state.stats.open -= expired.len();
        state.stats.expired += expired.len() as u64;
        expired
    }

    fn wait_until<'s>(
        &self,
        state: MutexGuard<'s, State>,
        deadline: Option<Instant>,
    ) -> Result<MutexGuard<'s, State>, IpcError> {
        let Some(deadline) = deadline else {
            return Ok(self.freed.wait(state).unwrap_or_else(PoisonError::into_inner));
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(IpcError::Busy { retry_after: Duration::ZERO });
        }
        Ok(self.freed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0)
    }

    fn give_back(&self, connection: Connection) {
        let mut state = lock(&self.state);
        let mut closed = self.take_expired(&mut state);
        if connection.is_closed() || connection.in_flight() > 0 {
            state.stats.open -= 1;
            state.stats.discarded += 1;
            closed.push(connection);
        } else {
            state.idle.push_back((connection, Instant::now()));
            if state.idle.len() > self.options.max_idle {
                closed.extend(state.idle.pop_front().map(|(connection, _)| connection));
                state.stats.open -= 1;
                state.stats.expired += 1;
            }
        }
        drop(state);
        self.freed.notify_one();
        drop(closed);
    }
}

impl fmt::Debug for ConnectionPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionPool")
            .field("options", &self.inner.options)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// A [`Connection`] on loan from a [`ConnectionPool`]; goes back when it is dropped, if it is alive
/// and has nothing in flight.
#[derive(Debug)]
pub struct PooledConnection {
    /// `None` only while being dropped.
    connection: Option<Connection>,
    inner: Arc<Inner>,
}

impl Deref for PooledConnection {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("there until dropped")
    }
}

impl DerefMut for PooledConnection {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("there until dropped")
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.inner.give_back(connection);
        }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("options", &self.options).finish_non_exhaustive()
    }
}
