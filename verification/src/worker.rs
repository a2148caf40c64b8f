//! A whole worker, its sessions, tickets and tasks, against a whole table: what must be answered once,
//! and what must be dropped.

use std::sync::Arc as StdArc;
use std::sync::atomic::{AtomicBool as StdBool, Ordering::Relaxed};

use annulus::connection::Ending;
use annulus::pool::TierIndex;
use annulus::protocol::JsonCodec;
use annulus::sync::Ordering;
use annulus::wire::{MessageType, Status};
use annulus::worker::model::{Order, Stop, Worker};
use annulus::{AsyncHandler, AsyncRequest, AsyncResponder, IpcError};
use futures_lite::future::yield_now;
use loom::thread;

use crate::link::pool_of_one;
use crate::shutdown::{SLOW, Shard, metrics};
use crate::stage::{Bound, explore};

/// A shard with one slot, and a worker that has not started.
fn stage(
    pool: &annulus::pool::BufferPool,
    metrics: &StdArc<annulus::metrics::Metrics>,
    handler: impl AsyncHandler + 'static,
) -> (Shard, Worker, Stop) {
    let (shard, end, waker, doorbell) = Shard::with_waker(pool, metrics);
    let handler = (SLOW, StdArc::new(handler) as StdArc<dyn AsyncHandler>);
    let (worker, stop) = Worker::new(end, handler, StdArc::new(JsonCodec), waker, doorbell);
    (shard, worker, stop)
}

/// Answers in two parts, and lets others run before each.
async fn answer_in_parts(request: AsyncRequest, responder: AsyncResponder) -> Result<(), IpcError> {
    drop(request);
    yield_now().await;
    responder.chunk(b"part").await?;
    yield_now().await;
    responder.reply(b"whole").await
}

#[test]
fn a_cancel_that_races_the_answer_leaves_exactly_one_last_frame_within_2_preemptions() {
    let metrics = metrics();
    // Both ends of the race are worth nothing if one never happens.
    let seen = StdArc::new([StdBool::new(false), StdBool::new(false)]);
    let both = StdArc::clone(&seen);
    explore(Bound::Preemptions(2), move || {
        let pool = pool_of_one();
        let (mut shard, worker, stop) = stage(&pool, &metrics, answer_in_parts);
        let mut client = shard.connect(1);
        client.send(SLOW, 7);
        shard.turn();
        let worker = thread::spawn(move || worker.run(Order::OldestFirst));
        client.send(MessageType::CANCEL, 7);
        // Serves the cancel while the answer is on its way, then finishes what is in flight.
        shard.turn();
        shard.drain();
        stop.stop();
        worker.join().unwrap();
        let answers = client.take_all();
        let last: Vec<_> = answers.iter().filter(|(.., last, _)| *last).collect();
        assert_eq!(last.len(), 1, "{answers:?}");
        assert!(answers.last().unwrap().2, "something came after the last frame");
        match last[0].1 {
            Status::Ok => both[0].store(true, Relaxed),
            Status::Cancelled => both[1].store(true, Relaxed),
            other => panic!("{other:?}"),
        }
        assert_eq!(pool.free_count(TierIndex::Small), 1);
    });
    assert!(seen.iter().all(|seen| seen.load(Relaxed)), "the cancel always won, or never");
}

#[test]
fn a_request_id_that_is_used_again_after_its_answer_is_answered_again_within_2_preemptions() {
    let metrics = metrics();
    explore(Bound::Preemptions(2), move || {
        let pool = pool_of_one();
        let at_once = |_: AsyncRequest, responder: AsyncResponder| async move {
            responder.reply(b"whole").await?;
            // The client may see its answer and use the id again before this task has ended.
            yield_now().await;
            Ok(())
        };
        let (mut shard, worker, stop) = stage(&pool, &metrics, at_once);
        let mut client = shard.connect(1);
        client.send(SLOW, 7);
        shard.turn();
        let worker = thread::spawn(move || worker.run(Order::OldestFirst));
        shard.run_until_answered(1);
        client.send(SLOW, 7);
        shard.run_until_answered(2);
        shard.drain();
        stop.stop();
        worker.join().unwrap();
        let answer = (7, Status::Ok, true, b"whole".to_vec());
        assert_eq!(client.take_all(), [answer.clone(), answer]);
    });
}

/// Ends a connection at any point of its answer, then serves the next one in its slot, which uses the
/// same request id.
fn end_in_mid_answer(order: Order) {
    let metrics = metrics();
    explore(Bound::Preemptions(2), move || {
        let pool = pool_of_one();
        let (mut shard, worker, stop) = stage(&pool, &metrics, answer_in_parts);
        let mut former = shard.connect(1);
        former.send(SLOW, 7);
        shard.turn();
        let worker = thread::spawn(move || worker.run(order));
        shard.end(Ending::ClientLeft);
        shard.run_down();
        if order == Order::OldestFirst {
            assert_eq!(pool.free_count(TierIndex::Small), 1, "the handler outlived its slot");
        }
        let mut next = shard.connect(2);
        // Without a payload: in the worst order the former request still has the buffer.
        next.send_with(SLOW, 7, &[]);
        shard.turn();
        shard.drain();
        stop.stop();
        worker.join().unwrap();
        let answers: Vec<_> = next.take_all().into_iter().map(|answer| answer.3).collect();
        assert_eq!(answers, [b"part".to_vec(), b"whole".to_vec()]);
        assert_eq!(pool.free_count(TierIndex::Small), 1);
    });
}

#[test]
fn a_connection_that_ends_in_mid_answer_drops_its_handler_before_its_slot_is_free_within_2_preemptions()
 {
    end_in_mid_answer(Order::OldestFirst);
}

#[test]
fn nothing_follows_the_last_word_on_a_connection_whichever_task_runs_first_within_2_preemptions() {
    end_in_mid_answer(Order::NewestFirst);
}

#[test]
fn a_connection_that_ends_while_its_handler_waits_for_space_frees_its_slot_within_2_preemptions() {
    let metrics = metrics();
    explore(Bound::Preemptions(2), move || {
        let pool = pool_of_one();
        let endless = |_: AsyncRequest, responder: AsyncResponder| async move {
            // Bounded by the client: nobody reads, so it ends with the connection.
            loop {
                responder.chunk(&[1; 32]).await?;
            }
        };
        let (mut shard, worker, stop) = stage(&pool, &metrics, endless);
        let mut client = shard.connect(1);
        client.send(SLOW, 7);
        shard.turn();
        let worker = thread::spawn(move || worker.run(Order::OldestFirst));
        shard.end(Ending::ClientLeft);
        shard.run_down();
        stop.stop();
        worker.join().unwrap();
        assert_eq!(pool.free_count(TierIndex::Small), 1);
        assert!(client.wire.hung_up.load(Ordering::Acquire));
    });
}

#[test]
fn a_worker_sleeps_through_neither_a_job_nor_the_order_to_stop_within_3_preemptions() {
    let metrics = metrics();
    explore(Bound::Preemptions(3), move || {
        let pool = pool_of_one();
        let at_once = |_: AsyncRequest, responder: AsyncResponder| async move {
            responder.reply(b"whole").await
        };
        let (mut shard, worker, stop) = stage(&pool, &metrics, at_once);
        let mut client = shard.connect(1);
        let worker = thread::spawn(move || worker.run(Order::OldestFirst));
        client.send(SLOW, 7);
        shard.turn();
        shard.drain();
        stop.stop();
        worker.join().unwrap();
        assert_eq!(client.take_all(), [(7, Status::Ok, true, b"whole".to_vec())]);
    });
}
