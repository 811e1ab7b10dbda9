# An ensemble behind HTTP, on CPUs: docker build -t gac . && docker run -p 8000:8000 gac
FROM python:3.12-slim

# torch for CPUs is on an index of its own; the one from PyPI is 2 GB larger.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /app
COPY constraints.txt ./
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml README.md LICENSE ./
COPY gac_core gac_core
COPY gac_integrations gac_integrations
RUN pip install --no-cache-dir -c constraints.txt '.[server,gguf]'

RUN useradd --create-home gac
USER gac
WORKDIR /home/gac
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["gac", "serve", "--host", "0.0.0.0"]
CMD ["pocket"]
