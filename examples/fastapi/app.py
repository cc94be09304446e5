"""A model server of one's own: any image with an HTTP port can be rolled out.

VERSION is shown with every answer; ERROR_RATE (0 to 1) is the share of predictions that fail.
"""

import os
import random

from fastapi import FastAPI, HTTPException
from prometheus_client import CONTENT_TYPE_LATEST, Counter, generate_latest
from pydantic import BaseModel, Field
from starlette.responses import Response

VERSION = os.environ.get("VERSION", "v1")
ERROR_RATE = float(os.environ.get("ERROR_RATE", "0"))

app = FastAPI(title="example-fastapi", version=VERSION)
predictions = Counter("example_predictions", "Predictions by how they ended", ["version", "outcome"])


class House(BaseModel):
    """What a price is asked for."""

    square_metres: float = Field(gt=0, le=10_000)
    rooms: int = Field(ge=1, le=100)


class Price(BaseModel):
    """An answer."""

    price: float
    version: str


@app.post("/predict")
def predict(house: House) -> Price:
    """The price of a house, by a model that fits in one line."""
    if random.random() < ERROR_RATE:
        predictions.labels(VERSION, "failed").inc()
        raise HTTPException(status_code=500, detail="the model failed")
    predictions.labels(VERSION, "answered").inc()
    return Price(price=round(2500 * house.square_metres + 10_000 * house.rooms, 2), version=VERSION)


@app.get("/healthz")
def healthz() -> dict[str, str]:
    """For the probes."""
    return {"status": "ok", "version": VERSION}


@app.get("/metrics")
def metrics() -> Response:
    """For Prometheus."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
