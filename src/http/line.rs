//! Between who asks and the task that has the connection: a request, its head, the pieces of its body.
//!
//! One slot, through which the messages go in this order, so that it never has to tell them apart:
//! request, head, any number of pieces of which one says that it is the last; then the next request.
//! Nobody gives up half way and goes on: who asks and leaves, cuts the connection.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

/// What is said of a connection that ended before its answer did.
pub(super) const CLOSED_EARLY: &str = "the connection closed too early";

/// The end of who asks.
#[derive(Default)]
pub(super) struct Line {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    message: Option<Message>,
    /// Who waits for a message: there is one, and it knows for which.
    asker: Option<Waker>,
    /// The connection's task, while it waits for a message or for the slot.
    task: Option<Waker>,
    /// The task is gone, or will not take another request.
    is_closed: bool,
}

// Large ones are boxed: a line lives as long as its connection, and these are short.
enum Message {
    Request(Box<Request<Full<Bytes>>>),
    Head(Result<Box<Head>, NoHead>),
    Piece(Result<Piece, String>),
}

/// The head of a response.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) parts: http::response::Parts,
    /// It has no body: no piece follows.
    pub(super) is_over: bool,
}

/// Why a request got no head.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoHead {
    pub(super) detail: String,
    /// Nothing of the request went out.
    pub(super) is_unsent: bool,
}

impl NoHead {
    /// The server may have begun with the request.
    pub(super) fn sent(detail: &str) -> Self {
        Self { detail: detail.to_owned(), is_unsent: false }
    }
}

/// A piece of a body, empty only if it is the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) data: Bytes,
    pub(super) is_last: bool,
}

impl Line {
    /// A line, and the end of the connection's task.
    pub(super) fn new() -> (Arc<Self>, LineEnd) {
        let line = Arc::new(Self::default());
        let end = LineEnd(Arc::clone(&line));
        (line, end)
    }

    /// Sends a request and waits for its head.
    ///
    /// # Errors
    ///
    /// [`NoHead`]: why there is none.
    pub(super) async fn ask(&self, request: Request<Full<Bytes>>) -> Result<Head, NoHead> {
        let task = {
            let mut state = self.state();
            state.message = Some(Message::Request(Box::new(request)));
            state.task.take()
        };
        wake(task);
        let head = self.receive(|message| match message {
            Message::Head(head) => Ok(head),
            other => Err(other),
        });
        match head.await {
            Some(head) => head.map(|head| *head),
            None => {
                // Still in the slot, it was not taken.
                let is_unsent = matches!(self.state().message.take(), Some(Message::Request(_)));
                Err(NoHead { is_unsent, ..NoHead::sent(CLOSED_EARLY) })
            }
        }
    }

    /// Waits for the next piece of the body. May be dropped and called again.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub(super) async fn piece(&self) -> Result<Piece, String> {
        let piece = self.receive(|message| match message {
            Message::Piece(piece) => Ok(piece),
            other => Err(other),
        });
        piece.await.unwrap_or_else(|| Err(CLOSED_EARLY.to_owned()))
    }

    /// Whether nobody would answer.
    pub(super) fn is_closed(&self) -> bool {
        self.state().is_closed
    }

    /// Waits for the message that `pick` takes; `None` when it will not come.
    async fn receive<T>(&self, pick: impl Fn(Message) -> Result<T, Message>) -> Option<T> {
        poll_fn(|context| {
            let (received, task) = {
                let mut state = self.state();
                match state.message.take().map(&pick) {
                    Some(Ok(received)) => (received, state.task.take()),
                    other => {
                        state.message = other.and_then(Result::err);
                        if state.is_closed {
                            return Poll::Ready(None);
                        }
                        keep(&mut state.asker, context);
                        return Poll::Pending;
                    }
                }
            };
            wake(task);
            Poll::Ready(Some(received))
        })
        .await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

/// The end of the connection's task. Dropped, the line is closed; what is in the slot stays.
pub(super) struct LineEnd(Arc<Line>);

impl LineEnd {
    /// Ready with the next request.
    pub(super) fn poll_request(&self, context: &Context<'_>) -> Poll<Request<Full<Bytes>>> {
        let mut state = self.0.state();
        match state.message.take() {
            Some(Message::Request(request)) => Poll::Ready(*request),
            other => {
                state.message = other;
                keep(&mut state.task, context);
                Poll::Pending
            }
        }
    }

    /// Answers the request that was taken.
    pub(super) fn answer(&self, head: Result<Head, NoHead>) {
        self.put(Message::Head(head.map(Box::new)));
    }

    /// Sends a piece; waits until the one before it was taken.
    pub(super) async fn send(&self, piece: Result<Piece, String>) {
        poll_fn(|context| {
            let mut state = self.0.state();
            if state.message.is_none() {
                return Poll::Ready(());
            }
            keep(&mut state.task, context);
            Poll::Pending
        })
        .await;
        self.put(Message::Piece(piece));
    }

    fn put(&self, message: Message) {
        let asker = {
            let mut state = self.0.state();
            state.message = Some(message);
            state.asker.take()
        };
        wake(asker);
    }
}

impl Drop for LineEnd {
    fn drop(&mut self) {
        let asker = {
            let mut state = self.0.state();
            state.is_closed = true;
            state.asker.take()
        };
        wake(asker);
    }
}

fn keep(place: &mut Option<Waker>, context: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(context.waker()),
        None => *place = Some(context.waker().clone()),
    }
}

// Never under the lock: a waker may run anything.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::Wake;

    use futures_lite::future::poll_once;

    use super::*;
    use crate::sync::{Ordering, TallyU64};

    /// Somebody who waits, and counts how often it is woken.
    #[derive(Default)]
    struct Sleeper(TallyU64);

    impl Wake for Sleeper {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Sleeper {
        fn poll<F: Future>(self: &Arc<Self>, future: &mut Pin<&mut F>) -> Poll<F::Output> {
            future.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(self))))
        }

        fn woken(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    /// Runs what needs nobody else. Where that waits and was not woken, it would wait for ever.
    fn finish<T>(future: impl Future<Output = T>) -> T {
        let sleeper = Arc::new(Sleeper::default());
        let mut future = pin!(future);
        let mut woken = 0;
        // Each round has been woken for.
        loop {
            if let Poll::Ready(output) = sleeper.poll(&mut future) {
                return output;
            }
            assert!(sleeper.woken() > woken, "it waits for ever");
            woken = sleeper.woken();
        }
    }

    fn request() -> Request<Full<Bytes>> {
        Request::new(Full::default())
    }

    fn head() -> Head {
        Head { parts: http::Response::new(()).into_parts().0, is_over: false }
    }

    fn piece(data: &'static str, is_last: bool) -> Result<Piece, String> {
        Ok(Piece { data: Bytes::from_static(data.as_bytes()), is_last })
    }

    fn closed(is_unsent: bool) -> NoHead {
        NoHead { is_unsent, ..NoHead::sent(CLOSED_EARLY) }
    }

    #[test]
    fn a_request_is_answered_by_a_head_and_pieces_one_after_the_other() {
        finish(async {
            let (line, end) = Line::new();
            for _ in 0..2 {
                let mut asking = pin!(line.ask(request()));
                assert!(poll_once(&mut asking).await.is_none());
                poll_fn(|context| end.poll_request(context)).await;
                end.answer(Ok(head()));
                {
                    let mut early = pin!(end.send(piece("a", false)));
                    assert!(poll_once(&mut early).await.is_none(), "the head is still there");
                    asking.await.unwrap();
                    early.await;
                }
                assert_eq!(line.piece().await, piece("a", false));
                {
                    // Waited for and given up, it is still the next one's.
                    let mut hasty = pin!(line.piece());
                    assert!(poll_once(&mut hasty).await.is_none());
                }
                end.send(piece("b", true)).await;
                let next = poll_once(poll_fn(|context| end.poll_request(context)));
                assert!(next.await.is_none(), "the last piece is still there");
                assert_eq!(line.piece().await, piece("b", true));
            }
            assert!(!line.is_closed());
        });
    }

    #[test]
    fn what_was_sent_before_the_end_is_received_and_nothing_after_it() {
        finish(async {
            let (line, end) = Line::new();
            end.send(piece("a", true)).await;
            drop(end);
            assert!(line.is_closed());
            assert_eq!(line.piece().await, piece("a", true));
            assert_eq!(line.piece().await.unwrap_err(), CLOSED_EARLY);
            assert_eq!(line.ask(request()).await.unwrap_err(), closed(true));
        });
    }

    #[test]
    fn who_waits_learns_of_the_end() {
        finish(async {
            let (line, end) = Line::new();
            let mut asking = pin!(line.ask(request()));
            assert!(poll_once(&mut asking).await.is_none());
            drop(end);
            assert_eq!(asking.await.unwrap_err(), closed(true));
        });
    }

    #[test]
    fn a_request_that_was_taken_may_have_been_sent() {
        finish(async {
            let (line, end) = Line::new();
            let mut asking = pin!(line.ask(request()));
            assert!(poll_once(&mut asking).await.is_none());
            poll_fn(|context| end.poll_request(context)).await;
            drop(end);
            assert_eq!(asking.await.unwrap_err(), closed(false));
        });
    }

    #[test]
    fn who_waits_is_woken_by_what_it_waits_for() {
        let (line, end) = Line::new();
        let [task, asker, former] = [(); 3].map(|()| Arc::new(Sleeper::default()));
        let mut taking = pin!(poll_fn(|context| end.poll_request(context)));
        let mut sending = pin!(end.send(piece("a", false)));
        let mut asking = pin!(line.ask(request()));
        let mut reading = pin!(line.piece());

        assert!(task.poll(&mut taking).is_pending());
        assert!(former.poll(&mut asking).is_pending());
        assert_eq!(task.woken(), 1, "a request has come");
        assert!(task.poll(&mut taking).is_ready());

        // Whoever has waited last is who waits.
        assert!(asker.poll(&mut asking).is_pending());
        end.answer(Ok(head()));
        assert_eq!((asker.woken(), former.woken()), (1, 0), "a head has come");

        assert!(task.poll(&mut sending).is_pending());
        assert!(asker.poll(&mut asking).is_ready());
        assert_eq!(task.woken(), 2, "there is room for a piece");

        assert!(asker.poll(&mut reading).is_pending());
        assert!(task.poll(&mut sending).is_ready());
        assert_eq!(asker.woken(), 2, "a piece has come");
        assert!(asker.poll(&mut reading).is_ready());

        let mut reading = pin!(line.piece());
        assert!(asker.poll(&mut reading).is_pending());
        drop(LineEnd(Arc::clone(&end.0)));
        assert_eq!(asker.woken(), 3, "nothing will come");
        assert!(asker.poll(&mut reading).is_ready());
        assert_eq!((task.woken(), former.woken()), (2, 0), "nobody is woken for nothing");
    }
}
