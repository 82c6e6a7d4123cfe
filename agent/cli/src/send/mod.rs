//! `send`: the source's side of replication.

pub(crate) mod args;
mod files;
mod hooks;
mod job;
mod moment;
mod report;

use crate::files::now;
use crate::meter::Meter;
use crate::report::print_bytes;
use crate::text::with_causes;
use anyhow::Result;
use args::SendArgs;
use failback_credentials::tells_of_revocation;
use failback_orchestrate::{JobError, Progress};
use failback_replication::{Clock, Enough, Follow, PassDone, Passes, Plan, SessionError, SystemClock};
use job::{Job, Passed};
use report::{Made, alarm};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Between two looks at the clock.
const TICK: Duration = Duration::from_millis(100);

pub(crate) fn send(args: &SendArgs) -> Result<ExitCode> {
    let plan = args.plan()?;
    let meter = Meter::new()?;
    check_objective(args)?;
    let mut job = Job::new(args, &meter)?;
    job.take_back_mark()?;
    job.check_last()?;
    if let Some(interval) = args.follow {
        follow(&mut job, interval, args, &meter)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut made = Vec::new();
    let ended = passes(&mut job, plan, args, &meter, &mut made);
    meter.finish();
    // What was made is told, also if what was to follow failed.
    if args.common.json && (ended.is_ok() || !made.is_empty()) {
        let objects: Vec<_> = made.iter().map(|made| made.json(&args.pair, args.disk.display().to_string())).collect();
        print_bytes((serde_json::to_string_pretty(&objects)? + "\n").as_bytes())?;
    }
    ended?;
    Ok(ExitCode::SUCCESS)
}

/// Makes passes as they were asked for, and the last one.
fn passes(job: &mut Job<'_>, plan: Plan, args: &SendArgs, meter: &Meter, made: &mut Vec<Made>) -> Result<()> {
    let mut plan = Passes::new(plan);
    let mut tell = |passed: Passed| {
        let Passed { made: pass, taken_back } = passed;
        meter.finish();
        if !args.common.json {
            let gap = if made.is_empty() { "" } else { "\n" };
            print_bytes(format!("{gap}{}", pass.lines()).as_bytes())?;
        }
        made.push(pass);
        taken_back.map_err(anyhow::Error::from)
    };
    loop {
        let passed = job.pass(false)?;
        let report = &passed.made.report;
        let done = PassDone { delta_bytes: report.difference.delta.delta_bytes, sending: report.sending };
        tell(passed)?;
        match plan.done(done) {
            None => {}
            Some(Enough::DoesNotHelp) => {
                meter.note("the source changes about as fast as it is sent, so further passes would not make it less");
                break;
            }
            Some(Enough::Number | Enough::Small) => break,
        }
        stop_here(meter)?;
    }
    if args.last {
        stop_here(meter)?;
        tell(job.pass(true)?)?;
    }
    Ok(())
}

fn stop_here(meter: &Meter) -> Result<(), JobError> {
    if meter.stop_requested() {
        return Err(JobError::Interrupted("what was sent is applied; run this again for what is left".into()));
    }
    Ok(())
}

/// Refuses an objective that no target can keep: just before a pass is applied, the target is an interval and that pass old.
fn check_objective(args: &SendArgs) -> Result<(), JobError> {
    match args.follow.zip(args.rpo) {
        Some((interval, objective)) if objective < interval => Err(JobError::Refused(format!(
            "--rpo is {} s and a pass is made each {} s, so it would be missed all the time: make --rpo longer than --follow",
            objective.as_secs(),
            interval.as_secs()
        ))),
        _ => Ok(()),
    }
}

/// Whether what ended a pass may be otherwise at the next one, without anybody doing anything on this machine: what the other side refuses is for
/// its administrator to mend, or passes. A key that was revoked stays so, and what is wrong here stays wrong.
fn may_pass(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<SessionError>() {
        Some(SessionError::Mismatch(why)) => !tells_of_revocation(why),
        Some(
            SessionError::Refused(_)
            | SessionError::Changed(_)
            | SessionError::Breach(_)
            | SessionError::OtherBase { .. },
        ) => true,
        // The time of --retry is over, or it failed here.
        Some(SessionError::Link(_) | SessionError::Job(_) | SessionError::NotOffered) | None => false,
    }
}

/// Tells why a pass was not made, once for as long as it is the same.
fn tell_refusal(told: &mut Option<String>, error: &anyhow::Error, args: &SendArgs, meter: &Meter) -> Result<()> {
    let why = with_causes(error.as_ref());
    if told.as_ref() == Some(&why) {
        return Ok(());
    }
    meter.note(&format!("{why}; it is tried again each interval"));
    if args.common.json {
        print_line(&json!({ "event": "refused", "pair": args.pair, "error": why }))?;
    }
    *told = Some(why);
    Ok(())
}

/// Makes a pass each interval, and tells when the target is older than it may be, until somebody wants this to stop.
fn follow(job: &mut Job<'_>, interval: Duration, args: &SendArgs, meter: &Meter) -> Result<()> {
    let clock = SystemClock::default();
    let state = Mutex::new(Follow::new(interval, args.rpo, clock.now()));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                let changed = state.lock().unwrap_or_else(PoisonError::into_inner).alarm(clock.now());
                if let Some((found, objective)) = changed.zip(args.rpo) {
                    let (sentence, object) = alarm(found, objective, &args.pair);
                    meter.note(&sentence);
                    if args.common.json {
                        // Whoever reads this has gone: the passes go on, and end with that.
                        let _ = print_line(&object);
                    }
                }
                clock.sleep(TICK);
            }
        });
        let ended = follow_until_stopped(job, &state, &clock, args, meter);
        is_over.store(true, Ordering::Release);
        ended
    })
}

fn follow_until_stopped(
    job: &mut Job<'_>,
    state: &Mutex<Follow>,
    clock: &SystemClock,
    args: &SendArgs,
    meter: &Meter,
) -> Result<()> {
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let mut refused = None;
    loop {
        let begun = clock.now();
        match job.pass(false) {
            Ok(passed) => {
                refused = None;
                lock().applied(clock.now().saturating_sub(age_of(&passed.made)));
                tell_pass(passed, args, meter)?;
            }
            Err(error) if may_pass(&error) && !meter.stop_requested() => {
                tell_refusal(&mut refused, &error, args, meter)?;
            }
            Err(error) => return Err(error),
        }
        let next = lock().next_start(begun, clock.now());
        meter.phase("waiting for the next pass", None);
        while clock.now() < next {
            stop_here(meter)?;
            clock.sleep(TICK.min(next.saturating_sub(clock.now())));
        }
        stop_here(meter)?;
    }
}

/// How old the moment is that a pass has brought.
fn age_of(made: &Made) -> Duration {
    Duration::from_secs(u64::try_from(now().saturating_sub(made.report.created)).unwrap_or(0))
}

/// Tells of a pass that was applied; then fails if what was done for it could not be taken back.
fn tell_pass(passed: Passed, args: &SendArgs, meter: &Meter) -> Result<()> {
    let Passed { made, taken_back } = passed;
    meter.finish();
    if args.common.json {
        let mut object = json!({ "event": "pass" });
        if let (Value::Object(all), Value::Object(pass)) =
            (&mut object, serde_json::to_value(made.json(&args.pair, args.disk.display().to_string()))?)
        {
            all.extend(pass);
        }
        print_line(&object)?;
    } else {
        print_bytes(format!("{}\n", made.line()).as_bytes())?;
    }
    Ok(taken_back?)
}

fn print_line(object: &Value) -> Result<()> {
    print_bytes(format!("{object}\n").as_bytes())
}
