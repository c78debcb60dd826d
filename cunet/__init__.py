"""cunet: continuous U-Nets for denoising diffusion, the library behind the notebooks.

The modules by what they are about; the site has a page of each (`cunet.site_pages` reads this list):

    The paper: paper, claims, rules, scorecard
    Equations and solvers: ode, outside, problems, convergence, depth, sde, posterior, lipschitz
    Networks: blocks, continuous, released, unet, denoisers, inputs, models, model_names, diagram
    Diffusion: diffusion, samplers, sampling, running, trajectories, denoising, accelerations, adaptive,
        guidance, likelihood
    In other libraries: pipelines, export
    Images: datasets, sources, drawn, photos, subsets, pictures
    Training: recipe, batches, training, training_progress, validation, resume, training_job, launch, devices,
        denoiser_training, denoiser_state
    Weights: checkpoints, checkpoint_names, precision, storage, release
    Quality: metrics, alexnet, frechet, kernel_distance, neighbours
    Cost: cost, contenders, bench, bench_tasks, bench_variants, bench_growth, bench_report
    Studies of many trainings: studies, solver_study, solver_choices, solver_figures, recipe_study,
        recipe_choices, recipe_loss, recipe_figures
    What notebooks measure: synthesis, synthesis_tables, synthesis_claims, denoising_tables, denoising_claims,
        denoiser_tables, ablations, ablation_claims, robustness, noise_reading, yardstick, orthogonality
    Figures: palette, figures, ode_figures, sde_figures, block_figure, denoising_figures, ablation_figures,
        beyond_figures, panel
    The chain of notebooks: notebook, parameters, profiles, chain, dependencies, engines, snakemake_main,
        reproduce, shards, shard_job, gpus, processes
    What a run will take: work, synthesis_work, estimate, calibration
    What a run leaves: folders, runs, provenance, run_outputs, sweep, again, slim, publish
    Pages: wording, pages, report, site, site_pages, docstrings, results_page, readme_picture
    Commands: cli, cli_measure, cli_options, lab, lab_token, errors, imports
"""

__version__ = "0.1.0"
