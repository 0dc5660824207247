//! What the operations that give a column another type have in common.

use super::{By, Retype, Target};
use crate::catalog::model::{CatalogSnapshot, Probe};
use crate::diagnostic::Diagnostic;
use crate::document::Fields;
use crate::ops::{Context, Named, Operation, StepDraft};
use crate::plan::Settings;
use crate::sql::QualifiedName;
use std::marker::PhantomData;

/// In what they differ.
pub trait Room {
    const NAME: &'static str;
    const MANUAL: &'static str;

    fn by(fields: &Fields<'_>) -> By;
}

#[derive(Debug, Clone)]
pub struct Retyping<R> {
    retype: Retype,
    room: PhantomData<R>,
}

impl<R: Room> Operation for Retyping<R> {
    type Target = Target;
    const NAME: &'static str = R::NAME;
    const MANUAL: &'static str = R::MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let retype = Retype::read(fields, R::by(fields))?;
        Some(Self {
            retype,
            room: PhantomData,
        })
    }

    fn needs(&self) -> Vec<Named> {
        self.retype.needs()
    }

    fn probes(&self, now: &CatalogSnapshot) -> Vec<Probe> {
        self.retype.probes(now)
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        self.retype.preflight(context)
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        target.steps(settings)
    }

    fn swaps(target: &Target) -> Vec<(QualifiedName, String)> {
        target.swaps()
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        target.apply_to(catalog);
    }
}
