//! What the pool needs of the world: time, a way to an endpoint, a key. Each is a trait, so that the
//! pool runs in tests without a network and in virtual time.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use secrecy::SecretString;

use crate::dialect::{Call, Decoder, Encoding, Failure, Keepsake, Row};
use crate::protocol::{AIRequest, StreamEvent};

/// A future of the pool's executor: it never leaves its thread.
pub type Local<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Clocks and sleep.
pub trait Time: Send + Sync {
    /// The time since some fixed point; never goes back.
    fn now(&self) -> Duration;

    /// The calendar's time, for dates that upstreams name.
    fn today(&self) -> SystemTime;

    /// Ends after `duration`. Dropping it costs nothing.
    fn sleep(&self, duration: Duration) -> Local<'static, ()>;
}

/// The way to one endpoint, whose address it knows and the pool does not.
pub trait Transport: Send + Sync {
    /// Sends a request, whose URI is a path and a query to be appended to the endpoint's base URL,
    /// and gives the answer's head. Dropping the future drops the connection at once.
    ///
    /// # Errors
    ///
    /// [`crate::dialect::Class::Network`].
    fn send(&self, request: http::Request<Bytes>) -> Local<'_, Result<Box<dyn Response>, Failure>>;
}

/// An answer on its way in. Dropping it before its end drops the connection at once; read to its end,
/// its connection serves others.
pub trait Response {
    /// The status.
    fn status(&self) -> u16;

    /// The headers.
    fn headers(&self) -> &http::HeaderMap;

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    ///
    /// [`crate::dialect::Class::Network`].
    fn chunk(&mut self) -> Local<'_, Result<Option<Bytes>, Failure>>;
}

/// Where a key comes from.
pub trait KeyReader: Send + Sync {
    /// Reads the key, which may have changed since the last time. May take a while: a keyring asks
    /// its user.
    ///
    /// # Errors
    ///
    /// Says where it was looked for and why it is not there, without a word of the key.
    fn read(&self) -> Local<'_, Result<SecretString, String>>;
}

/// Signs requests with a key that is not sent (AWS Signature Version 4).
pub trait Signer: Send + Sync {
    /// Adds the headers of a signature to a request.
    ///
    /// # Errors
    ///
    /// [`crate::dialect::Class::Auth`]: the key is not of the right form.
    fn sign(
        &self,
        request: &mut http::Request<Bytes>,
        key: &SecretString,
        today: SystemTime,
    ) -> Result<(), Failure>;
}

/// How requests are written and answers read.
pub trait Wire: Send + Sync {
    /// See [`Encoding::encode`].
    ///
    /// # Errors
    ///
    /// [`crate::dialect::Class::BadRequest`].
    fn encode(&self, encoding: &Encoding<'_>, request: &AIRequest) -> Result<Call, Failure>;

    /// See [`Decoder::new`].
    fn decode(&self, row: &'static Row, request: &AIRequest) -> Box<dyn Decode>;

    /// What an answer with another status than 2xx means.
    fn refusal(
        &self,
        row: &'static Row,
        status: u16,
        headers: &http::HeaderMap,
        body: &[u8],
        today: SystemTime,
    ) -> Failure;
}

/// Reads one answer; see [`Decoder`].
pub trait Decode {
    /// See [`Decoder::feed`].
    ///
    /// # Errors
    ///
    /// As there.
    fn feed(&mut self, bytes: &[u8]) -> Result<(), Failure>;

    /// See [`Decoder::finish`].
    ///
    /// # Errors
    ///
    /// As there.
    fn finish(&mut self) -> Result<(), Failure>;

    /// See [`Decoder::next_event`].
    fn next_event(&mut self) -> Option<StreamEvent>;

    /// See [`Decoder::has_output`].
    fn has_output(&self) -> bool;

    /// See [`Decoder::take_keepsakes`].
    fn take_keepsakes(&mut self) -> Vec<(String, Keepsake)>;
}

impl Decode for Decoder {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Self::feed(self, bytes)
    }

    fn finish(&mut self) -> Result<(), Failure> {
        Self::finish(self)
    }

    fn next_event(&mut self) -> Option<StreamEvent> {
        Self::next_event(self)
    }

    fn has_output(&self) -> bool {
        Self::has_output(self)
    }

    fn take_keepsakes(&mut self) -> Vec<(String, Keepsake)> {
        Self::take_keepsakes(self)
    }
}
