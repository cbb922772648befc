"""The run page: log tail, steps and files of a local pipeline run. Who may read a DAG's task logs may read it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import FileResponse, HTMLResponse

from bandit_ops.ui import run_folder
from rl_core.config import Settings

MAY_READ = Depends(requires_access_dag("GET", DagAccessEntity.TASK_LOGS))


def build_app() -> FastAPI:
    """Build the web application that Airflow mounts."""
    app = FastAPI(title="banditloop", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/dags/{dag_id}/jobs/{job_id}", dependencies=[MAY_READ], response_class=HTMLResponse)
    def page(dag_id: str, job_id: str, folder: Annotated[Path, Depends(_folder)]) -> str:
        return run_folder.render(dag_id, job_id, folder)

    @app.get("/dags/{dag_id}/jobs/{job_id}/files/{name:path}", dependencies=[MAY_READ])
    def file(name: str, folder: Annotated[Path, Depends(_folder)]) -> FileResponse:
        path = run_folder.file_in(folder, name)
        if path is None:
            raise HTTPException(404, f"no file {name!r} in this run")
        return FileResponse(path, media_type="text/plain; charset=utf-8", headers={"X-Content-Type-Options": "nosniff"})

    return app


def _folder(dag_id: str, job_id: str) -> Path:
    """The folder of a run that this DAG started; 404 for any other, so that access to one DAG shows no other's runs."""
    found = run_folder.find(Settings.from_environment().home, dag_id, job_id)
    if found is None:
        raise HTTPException(404, f"{dag_id} has no local run called {job_id!r}")
    return found
