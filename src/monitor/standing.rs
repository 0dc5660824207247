//! Where a run stands, by the events so far. Pure.

use crate::event::Event;
use serde::Serialize;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    #[default]
    Running,
    Completed,
    RolledBack,
    /// Through the phase that was asked for.
    Stopped,
    Failed,
    Interrupted,
}

impl State {
    pub const ALL: [Self; 6] = [
        Self::Running,
        Self::Completed,
        Self::RolledBack,
        Self::Stopped,
        Self::Failed,
        Self::Interrupted,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::RolledBack => "rolled_back",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    pub plan: String,
    pub run: i64,
    pub steps: usize,
    pub done: usize,
    pub phase: Option<&'static str>,
    pub step: Option<String>,
    /// Steps are undone.
    pub back: bool,
    pub state: State,
    pub failure: Option<String>,
}

impl Standing {
    pub fn take(&mut self, event: &Event) {
        match event {
            Event::RunStarted {
                plan, run, steps, done, ..
            } => {
                *self = Self {
                    plan: plan.clone(),
                    run: *run,
                    steps: *steps,
                    done: *done,
                    ..Self::default()
                };
            }
            Event::PhaseStarted { phase, .. } => self.phase = Some(phase.name()),
            Event::StepStarted { step, undo, .. } => {
                self.step = Some(step.clone());
                self.back = *undo;
            }
            Event::StepDone { .. } | Event::StepSkipped { .. } => {
                self.done += 1;
                self.step = None;
            }
            Event::StepFailed { message, .. } => {
                self.state = State::Failed;
                self.failure = Some(message.clone());
            }
            Event::Interrupted { reason } => {
                self.state = State::Interrupted;
                self.failure = Some(reason.clone());
            }
            Event::RunFinished { state } => {
                self.step = None;
                self.state = match state.as_str() {
                    "completed" => State::Completed,
                    "rolled_back" => State::RolledBack,
                    _ => State::Stopped,
                };
            }
            _ => {}
        }
    }
}
