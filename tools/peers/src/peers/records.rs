//! Peers whose messages are records of a type: their size is fixed when they are compiled.

use anyhow::{Result, bail};

use super::Peer;
use crate::meter::Link;
use crate::scene::{Load, Responder, Scene, Wait};

/// A transport of records, which a side polls for and only sleeps for under [`Load::Cold`].
pub(crate) trait Records: Sync {
    const NAME: &'static str;

    /// [`Peer::respond`] with records of `SIZE` bytes.
    fn respond_with<const SIZE: usize>(scene: &Scene) -> Result<()>;

    /// [`Peer::connect`] with records of `SIZE` bytes.
    fn connect_with<const SIZE: usize>(scene: &Scene) -> Result<(Box<dyn Link>, Responder)>;
}

impl<R: Records> Peer for R {
    fn name(&self) -> &'static str {
        R::NAME
    }

    fn wait(&self, load: Load) -> Result<Wait, &'static str> {
        Ok(if load == Load::Cold { Wait::Sleeps } else { Wait::Polls })
    }

    fn respond(&self, scene: &Scene) -> Result<()> {
        match scene.size {
            64 => R::respond_with::<64>(scene),
            1024 => R::respond_with::<1024>(scene),
            4096 => R::respond_with::<4096>(scene),
            size => bail!("no record has {size} bytes"),
        }
    }

    fn connect(&self, scene: &Scene) -> Result<(Box<dyn Link>, Responder)> {
        match scene.size {
            64 => R::connect_with::<64>(scene),
            1024 => R::connect_with::<1024>(scene),
            4096 => R::connect_with::<4096>(scene),
            size => bail!("no record has {size} bytes"),
        }
    }
}
