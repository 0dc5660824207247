//! A small plan with one of everything, for the tests of the renderings.

use crate::ops::testing::{catalog, table};
use crate::plan::{
    Action, Backfill, Check, Contention, Estimate, ExecutionPlan, Hazard, Limits, Lock, LockMode,
    PLAN_FORMAT, Phase, PlannedChange, Settings, Step, Timeouts, Transaction, Undo, Work,
};
use crate::sql::QualifiedName;

fn work(summary: &str, action: Action, mode: LockMode, timeouts: Timeouts) -> Work {
    Work {
        summary: summary.into(),
        action,
        transaction: Transaction::Single,
        locks: vec![Lock::new(&orders(), mode)],
        timeouts,
        expect: Vec::new(),
        on_violation: None,
        guards_values: false,
        part: None,
        not_before: None,
    }
}

fn step(id: &str, phase: Phase, work: Work, undo: Undo, estimate: Estimate) -> Step {
    Step {
        id: id.into(),
        change: 1,
        operation: "widen_column".into(),
        phase,
        work,
        hazards: Vec::new(),
        undo,
        estimate,
    }
}

fn sql(statement: &str) -> Action {
    Action::Sql(vec![statement.into()])
}

fn orders() -> QualifiedName {
    QualifiedName::new("public", "orders")
}

fn steps() -> Vec<Step> {
    let settings = Settings::default();
    let (brief, patient) = (settings.brief(), settings.patient());
    let weak = LockMode::ShareUpdateExclusive;
    let drop = work(
        "drop index orders_new_idx",
        sql("DROP INDEX CONCURRENTLY public.orders_new_idx"),
        weak,
        patient,
    );
    let build = "CREATE INDEX CONCURRENTLY orders_new_idx ON public.orders (version)";
    let mut index = step(
        "01-widen_column-build",
        Phase::Expand,
        work("build index orders_new_idx", sql(build), weak, patient),
        Undo::Work(vec![drop]),
        Estimate::scan(1_000_000, 100 << 20, 30 << 20),
    );
    index.work.transaction = Transaction::None;
    let long = "building waits for every transaction that began before it; a transaction that stays open for hours \
                keeps it from finishing";
    index.hazards.push(Hazard::new("waits_for_old_snapshots", long));
    let fill = Action::Backfill(Backfill {
        table: orders(),
        set: "new = version".into(),
        needs: "new IS DISTINCT FROM version".into(),
        suppress_triggers: true,
        columns: vec!["new".into()],
        workers: 1,
        limits: Limits::default(),
    });
    let check = Action::Check(Check {
        name: "copies equal".into(),
        query: "SELECT id FROM public.orders WHERE new <> version".into(),
        help: String::new(),
    });
    let reason = |text: &str| Undo::NotNeeded { reason: text.into() };
    let scan = Estimate::scan(1_000_000, 100 << 20, 0);
    vec![
        index,
        step(
            "01-widen_column-fill",
            Phase::Backfill,
            work("copy version to new", fill, LockMode::RowExclusive, brief),
            reason("the column goes"),
            scan,
        ),
        step(
            "01-widen_column-compare",
            Phase::Validate,
            work("compare all rows", check, LockMode::AccessShare, patient),
            reason("it changes nothing"),
            scan,
        ),
        swap(brief),
        remove(brief),
    ]
}

fn swap(brief: Timeouts) -> Step {
    let swap = Action::Sql(vec![
        "ALTER TABLE public.orders RENAME COLUMN version TO old".into(),
        "ALTER TABLE public.orders RENAME COLUMN new TO version".into(),
    ]);
    let back = sql("ALTER TABLE public.orders RENAME COLUMN version TO new");
    let strong = LockMode::AccessExclusive;
    step(
        "01-widen_column-swap",
        Phase::Cutover,
        work("swap the columns", swap, strong, brief),
        Undo::Work(vec![work("swap them back", back, strong, brief)]),
        Estimate::INSTANT,
    )
}

fn remove(brief: Timeouts) -> Step {
    let remove = sql("ALTER TABLE public.orders DROP COLUMN old");
    step(
        "01-widen_column-drop",
        Phase::Contract,
        work("drop the old column", remove, LockMode::AccessExclusive, brief),
        Undo::Irreversible {
            reason: "the values of the old column are gone".into(),
        },
        Estimate::INSTANT,
    )
}

pub(super) fn plan() -> ExecutionPlan {
    let catalog = catalog().with(
        "orders",
        table(&["id bigint not null", "version integer not null"]),
    );
    let check = |name: &str, query: &str| Check {
        name: name.into(),
        query: query.into(),
        help: String::new(),
    };
    ExecutionPlan {
        format: PLAN_FORMAT,
        name: "widen".into(),
        description: "Room for more versions".into(),
        digest: "0123456789abcdef".repeat(4),
        changes: vec![PlannedChange {
            operation: "widen_column".into(),
            text: r#"widen_column: {table: "orders", column: "version"}"#.into(),
            waiting: None,
            in_place: false,
        }],
        schema: Some("public".into()),
        server_version_num: 150_018,
        lock_deadline_ms: 600_000,
        contention: Contention::default(),
        preconditions: vec![check(
            "no negative versions",
            "SELECT id FROM orders WHERE version < 0",
        )],
        steps: steps(),
        postconditions: vec![check("still none", "SELECT id FROM orders WHERE version < 0")],
        monitors: Vec::new(),
        confirm_rollback: None,
        before: catalog.clone(),
        after: catalog,
    }
}
