//! Node.js: both sides are programs of it, and this process only starts them. The script is
//! `node/echo.mjs`.

use std::ffi::{OsStr, OsString};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::Peer;
use crate::meter::{Figures, Link};
use crate::scene::{Load, Responder, Scene, Wait};

const SCRIPT: &str = include_str!("../../node/echo.mjs");

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    /// `net` over a Unix socket.
    Net,
    /// `child_process.fork`, with its default of JSON messages.
    Fork,
}

impl Peer for Node {
    fn name(&self) -> &'static str {
        match self {
            Self::Net => "node-net",
            Self::Fork => "node-fork",
        }
    }

    fn wait(&self, _: Load) -> Result<Wait, &'static str> {
        Ok(Wait::Sleeps)
    }

    fn missing(&self) -> Option<String> {
        let version = Command::new("node").arg("--version").stdin(Stdio::null()).output();
        match version {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(format!("node --version ends with {}", output.status)),
            Err(error) => Some(format!("node cannot be started: {error}")),
        }
    }

    fn respond(&self, _: &Scene) -> Result<()> {
        bail!("the script answers")
    }

    fn connect(&self, _: &Scene) -> Result<(Box<dyn Link>, Responder)> {
        bail!("the script measures")
    }

    fn measure(&self, scene: &Scene) -> Result<Figures> {
        let script = scene.path("echo.mjs");
        std::fs::write(&script, SCRIPT)?;
        let program = std::env::current_exe()?;
        let node = |core: usize, arguments: &[&OsStr]| {
            let mut command = Command::new(&program);
            command.arg("on-core").arg(core.to_string()).arg("node").arg(&script);
            command.args(arguments).stdin(Stdio::null());
            command
        };
        let description = OsString::from(scene.to_argument()?);
        let socket = scene.path("s");
        let core = OsString::from(scene.server_core.to_string());
        let (role, _responder, rest) = match self {
            Self::Net => {
                let responder = node(scene.server_core, &["net-respond".as_ref(), socket.as_ref()]);
                ("net-measure", Some(Responder::start(responder)?), vec![socket.as_os_str()])
            }
            Self::Fork => ("fork-measure", None, vec![program.as_os_str(), &core]),
        };
        let mut arguments = vec![role.as_ref(), description.as_os_str()];
        arguments.extend(rest);
        // Bounded by the life of the scene, which ends this process and with it the script.
        let output = node(scene.client_core, &arguments)
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start node")?;
        ensure!(output.status.success(), "node ends with {}", output.status);
        serde_json::from_slice(&output.stdout).context("node printed something else")
    }
}
