// The gateway's translation of a start in njs, as far as a configuration can do it: no look-up, no record of the job.
async function start(request) {
    const body = JSON.parse(request.requestText);
    const translated = {
        project_id: body.project_id,
        input_key: "working_videos/video.mp4",
        params: { highlight_regions: body.highlight_regions, effect_type: body.effect_type },
    };
    const reply = await request.subrequest("/translated" + request.uri, {
        method: "POST",
        body: JSON.stringify(translated),
    });
    const answer = JSON.parse(reply.responseText);
    answer.websocket_url = "ws://localhost/api/jobs/" + answer.job_id + "/ws";
    request.headersOut["Content-Type"] = "application/json";
    request.return(reply.status, JSON.stringify(answer));
}

export default { start };
