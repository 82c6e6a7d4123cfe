//! Serving a recovery point over NBD.

use super::args::ServeArgs;
use super::{no_such_point, open};
use crate::meter::Meter;
use crate::report::{Lines, print, tell};
use anyhow::Result;
use failback_nbd::{BindError, Export, Limits, Overlay, Server};
use failback_orchestrate::{
    Device, JobError, OpenPoint, Progress, look_at_target, open_point, points_for_reading, refuse_fuzzy,
};
use serde_json::json;
use std::process::ExitCode;

pub(crate) fn serve(args: &ServeArgs) -> Result<ExitCode> {
    let directory = open::needed_directory(&args.retention)?;
    let disk = look_at_target(&args.disk)?.identity;
    // The shared lock is held to the end: nobody moves the disk under a client.
    let points = points_for_reading(&directory, &disk)?;
    let point = *points.store.catalogue().point(args.id).ok_or_else(|| no_such_point(args.id))?;
    refuse_fuzzy(&point, args.fuzzy)?;
    let source = open::quiet_disk(&args.disk, args.common.engine.into())?;
    let meter = Meter::new()?;
    let OpenPoint { device, .. } = open_point(source.device(), &points.store, args.id)?;
    let overlay = if args.writable { Some(Overlay::new(&device as &dyn Device, &args.scratch)?) } else { None };
    let export = match &overlay {
        Some(overlay) => Export::throw_away("", overlay)?,
        None => Export::read_only("", &device as &dyn Device)?,
    };
    let server = Server::bind(&args.socket, Limits::default()).map_err(refused)?;
    let object = json!({
        "disk": args.disk.display().to_string(),
        "point": point.id.0,
        "size": point.size.get(),
        "root": point.root.to_string(),
        "kind": point.kind.name(),
        "writable": args.writable,
        "socket": args.socket.display().to_string(),
        "uri": format!("nbd+unix:///?socket={}", args.socket.display()),
    });
    let mut lines = Lines::default();
    lines.add("serving", format!("recovery point {} of {}", point.id, args.disk.display()));
    lines.add("uri", format!("nbd+unix:///?socket={}", args.socket.display()));
    lines.add("root", point.root).add("kind", point.kind);
    lines.add("writes", if args.writable { "are taken, and thrown away in the end" } else { "are refused" });
    print(args.common.json, &object, &lines)?;
    run(&server, &export, &meter)?;
    source.check_unchanged().map_err(|_| {
        JobError::Mismatch(format!(
            "{} was written to while it was served, so what clients read was no recovery point",
            args.disk.display()
        ))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn run(server: &Server, export: &Export<'_>, meter: &Meter) -> Result<()> {
    server.run(export, || meter.stop_requested(), |error| tell(&error.to_string()))?;
    let counters = export.counters();
    tell(&format!("served {} requests", counters.requests));
    Ok(())
}

fn refused(error: BindError) -> anyhow::Error {
    match error {
        BindError::Io { .. } => error.into(),
        error => JobError::Refused(error.to_string()).into(),
    }
}
