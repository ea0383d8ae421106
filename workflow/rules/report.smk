# Rows to tables, figures and the report; no torch from here on.
from dataclasses import asdict

# How methods are shown and compared: from their cards and the config.
SHOWN = digest(asdict(RUN.cards))
CLAIMS = files_digest("proxykv.config", "paper")
ROWS = [str(job.file("rows")) for job in RUN.jobs()]


rule tabulate:
    input:
        ROWS,
        MEASURED,
        # Mappers that have seen evaluation text are refused here.
        [
            str(paths.screening(RUN, family))
            for family in RUN.families
            if RUN.fitted_here
        ],
    output:
        report(
            str(RUN.dir / "tables/leaderboard.csv"),
            category="Tables",
            caption="../report/leaderboard.rst",
        ),
        str(RUN.dir / "tables/provenance.json"),
    log:
        f"{LOGS}/tabulate.log",
    conda:
        "../envs/proxykv.yaml"
    params:
        code=code_digest("proxykv.steps.tabulate:tabulate"),
        claims=CLAIMS,
        shown=SHOWN,
    shell:
        step("tabulate")


rule plot:
    input:
        ROWS,
        MEASURED,
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
    log:
        f"{LOGS}/plot.log",
    conda:
        "../envs/proxykv.yaml"
    params:
        code=code_digest("proxykv.steps.plot:plot", *PLOTS),
        shown=SHOWN,
    shell:
        step("plot")


# The page draws its figures itself, so it is made at the same time as the files of the figures.
rule report:
    input:
        ROWS,
        MEASURED,
        rules.tabulate.output,
    output:
        str(RUN.dir / "report/index.html"),
    log:
        f"{LOGS}/report.log",
    conda:
        "../envs/proxykv.yaml"
    params:
        code=code_digest("proxykv.steps.report:report", *PLOTS),
        claims=CLAIMS,
        page=files_digest("proxykv.report", "templates"),
        shown=SHOWN,
    shell:
        step("report")
