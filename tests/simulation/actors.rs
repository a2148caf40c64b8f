//! Everybody but the shard: the clients and the workers, and the region through which the shard looks
//! at a client.
//!
//! The shard's turn is one call, yet others run during it. So each time that it looks at a region,
//! somebody else may take a step first: that is where its view of the world changes under it.

use std::cell::RefCell;
use std::rc::Rc;

use annulus::region::{RegionLayout, RegionMemory, RegionView};
use annulus::sync::AtomicU64;

use super::client::{Client, Honesty, Signal};
use super::plan::Plan;
use super::stage::Stage;
use super::worker::Worker;

pub(crate) struct Actors {
    pub(crate) clients: Vec<Client>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) signals: Vec<Signal>,
    pub(crate) stage: Rc<Stage>,
    pub(crate) plan: Rc<Plan>,
}

impl Actors {
    pub(crate) fn step_client(&mut self, index: usize) {
        self.clients[index].step(&self.stage, &self.plan, &mut self.signals);
    }

    pub(crate) fn step_worker(&mut self, index: usize) {
        self.workers[index].step(&self.stage, &self.plan);
    }

    /// The shard looks at the region of `client`: somebody may act first.
    fn preempt(&mut self, client: usize) {
        let now = self.stage.now();
        let calm = self.stage.calm.get();
        if self.clients[client].honesty == Honesty::Suspect
            && !calm
            && self.stage.chance(self.plan.faults.tamper)
        {
            self.clients[client].scribble_once(&self.stage);
        }
        if !self.stage.chance(self.plan.faults.preempt) {
            return;
        }
        let worker = self.stage.index(2 * self.workers.len());
        if worker < self.workers.len() {
            if self.workers[worker].ready_at(now).is_some_and(|at| at <= now) {
                self.step_worker(worker);
            }
            return;
        }
        // Several: a client that publishes, or reads, and looks at the flag before the shard sets it does
        // not ring.
        for _ in 0..self.stage.pick(&[1, 6, 300, 300]) {
            self.clients[client].hurry(now);
            if self.clients[client].ready_at(now).is_some_and(|at| at <= now) {
                self.step_client(client);
            }
        }
        self.clients[client].is_hurried = false;
    }
}

/// The daemon's side of a client's region.
pub(crate) struct SharedRegion {
    words: Rc<[AtomicU64]>,
    layout: RegionLayout,
    client: usize,
    actors: Rc<RefCell<Actors>>,
}

impl SharedRegion {
    pub(crate) fn new(client: usize, layout: RegionLayout, actors: &Rc<RefCell<Actors>>) -> Self {
        let words = actors.borrow().clients[client].words();
        Self { words, layout, client, actors: Rc::clone(actors) }
    }
}

impl RegionMemory for SharedRegion {
    fn view(&self) -> RegionView<'_> {
        self.actors.borrow_mut().preempt(self.client);
        RegionView::new(&self.words, self.layout)
    }
}
