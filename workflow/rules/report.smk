# Rows to tables, figures and the report; no torch from here on.

ROWS = [str(cell.file("rows")) for cell in RUN.cells()]


rule table:
    input:
        ROWS,
    output:
        report(
            str(RUN.dir / "tables/leaderboard.csv"),
            category="Tables",
            caption="../report/leaderboard.rst",
        ),
        str(RUN.dir / "tables/provenance.json"),
    params:
        code=code_digest("proxykv.tables"),
    log:
        f"{LOGS}/table.log",
    shell:
        "{PROXYKV} table --config {CONFIG} >{log} 2>&1"


rule plot:
    input:
        ROWS,
    output:
        report(
            str(RUN.dir / "figures/accuracy_retention.svg"),
            category="Figures",
            caption="../report/accuracy_retention.rst",
        ),
        report(
            str(RUN.dir / "figures/pareto.svg"),
            category="Figures",
            caption="../report/pareto.rst",
        ),
    params:
        code=code_digest("proxykv.plots"),
    log:
        f"{LOGS}/plot.log",
    shell:
        "{PROXYKV} plot --config {CONFIG} >{log} 2>&1"


rule report:
    input:
        ROWS,
        rules.table.output,
        rules.plot.output,
    output:
        str(RUN.dir / "report/index.html"),
    params:
        code=code_digest("proxykv.report.build"),
    log:
        f"{LOGS}/report.log",
    shell:
        "{PROXYKV} report --config {CONFIG} >{log} 2>&1"
